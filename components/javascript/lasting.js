// Streamlit calls a component anew for each change of its data. Where a change overtakes a call that is still on its
// way, it runs the clean-up of the overtaken one at once, though the component lives on (1.67: `BidiComponent`). So a
// clean-up takes down only what has really left the page; else uploads would break off, and a canvas be built anew.
export function whenGone(parentElement, end) {
  return () => setTimeout(() => parentElement.isConnected || end(), 0)
}
