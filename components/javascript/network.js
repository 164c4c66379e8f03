// The canvas on which a network is clicked together. React Flow draws it; dagre ranks it; everything else is in network/.
//
// data: {draft, graph: {nodes: [{id, name, brief, feeds, shape, layout, cost, taps?, each?, wrong?}], places, scan, shape, layout},
//   palette: [{name, title, group, help, finds, brief, inputs, takes}], layouts, facts: [[label, value]], whole: [problem],
//   steps: {before, now, after, undo, redo}, mount, heard, asked, names, refused: [[number, words]], selected, starters}
// state "edits": {mount, edits: [[number, edit]], selected, asked}, one per gesture; an edit is repeated until `heard` reaches it.
import { createRoot } from 'react-dom/client'
import { App } from './network/App.jsx'
import { Desk } from './network/desk.js'
import { createElement } from 'react'
import { whenGone } from './lasting.js'
import '@xyflow/react/dist/base.css'
import './network/network.css'

const UNSTYLED_MS = 15_000 // then it is drawn all the same
const mounted = new WeakMap()
let lastDesk = null // outlives its mount: should Streamlit mount the canvas anew, no edit that waits for its answer is lost

export default function ({ parentElement, data, setStateValue }) {
  let kept = mounted.get(parentElement)
  if (kept) {
    kept.desk.receive(data, setStateValue)
  } else {
    const place = parentElement.querySelector('.nw-mount')
    lastDesk ??= new Desk()
    kept = { desk: lastDesk, root: createRoot(place) }
    mounted.set(parentElement, kept)
    window.scanloomNetworkMounts = (window.scanloomNetworkMounts ?? 0) + 1
    kept.desk.receive(data, setStateValue)
    if (kept.desk.seen.waits) kept.desk.send()
    styled(place, () => mounted.get(parentElement) === kept && kept.root.render(createElement(App, { desk: kept.desk })))
  }
  return whenGone(parentElement, () => {
    if (mounted.get(parentElement) !== kept) return
    kept.desk.close()
    kept.root.unmount()
    mounted.delete(parentElement)
  })
}

// The style sheet comes by itself, and now and then after the program: React Flow would measure cards without their style,
// and keep the places of their wires.
function styled(place, then, since = performance.now()) {
  const there = getComputedStyle(place).getPropertyValue('--nw-styled')
  if (there || performance.now() - since > UNSTYLED_MS) then()
  else setTimeout(() => styled(place, then, since), 20)
}
