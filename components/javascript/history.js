// The browser's Back takes the steps of a hand.
//
// Streamlit (1.67) makes a step of every change of the address. A page is opened first and names what it shows a moment
// later; on a busy machine these are two changes, and Back led to the page without its name, which at once named it
// again: the way back was shut until one pressed twice; or a press names what it has begun and then opens the page that
// shows it, and Back led to the first page twice. So only what a hand has done is a step: a change of the address with
// no press since the one before takes that one's place. (A screen reader's press is a click without a pointer.)
const PRESSES = ['pointerdown', 'keydown', 'touchstart', 'click', 'drop']
let pressed = false
let listens = false

function listen() {
  if (listens) return
  listens = true
  for (const press of PRESSES) window.addEventListener(press, () => { pressed = true }, { capture: true, passive: true })
  window.addEventListener('popstate', () => { pressed = false }, { capture: true })
  const push = window.history.pushState
  window.history.pushState = function (state, unused, url) {
    if (pressed) push.call(this, state, unused, url)
    else this.replaceState(state, unused, url)
    pressed = false
  }
}

export default listen
