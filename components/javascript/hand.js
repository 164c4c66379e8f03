// The hand on a drawing canvas that is not ours (streamlit-drawable-canvas 0.13), so that nothing it draws is lost.
//
// Its tools ask for the left button of a mouse, which a finger has not: one finger is told to it as that mouse. And it
// tells a stroke a fifth of a second after its end; a key that takes the canvas away sooner would take the stroke along,
// so such a key waits until the stroke is told.
const CANVAS = 'upper-canvas'
const TELLS_AFTER_MS = 200
const again = new WeakSet() // keys that have waited
let drawing = false
let telling = null // the timer that rings after the canvas's own
let waiting = [] // [key, where it was pressed], in order
let finger = null // {id, canvas} of the finger that draws
let listens = false

function canvasUnder(event) {
  const at = event.composedPath()[0]
  return at instanceof Element && at.classList.contains(CANVAS) ? at : null
}

function asMouse(kind, canvas, touch) {
  const { clientX, clientY, screenX, screenY } = touch
  const up = kind === 'mouseup'
  canvas.dispatchEvent(
    new MouseEvent(kind, {
      bubbles: true, cancelable: true, composed: true, view: window,
      button: 0, buttons: up ? 0 : 1, clientX, clientY, screenX, screenY,
    }),
  )
}

function touched(event) {
  const canvas = finger ? finger.canvas : canvasUnder(event)
  if (!canvas) return
  event.preventDefault()
  event.stopImmediatePropagation()
  if (!finger) {
    if (event.type !== 'touchstart' || event.touches.length > 1) return // two fingers draw nothing
    const touch = event.changedTouches[0]
    finger = { id: touch.identifier, canvas }
    asMouse('mousemove', canvas, touch) // a mouse comes from somewhere
    asMouse('mousedown', canvas, touch)
    return
  }
  const touch = [...event.changedTouches].find((one) => one.identifier === finger.id)
  if (!touch || event.type === 'touchstart') return
  if (event.type === 'touchmove') {
    asMouse('mousemove', canvas, touch)
    return
  }
  finger = null
  asMouse('mouseup', canvas, touch)
}

function pressed(event) {
  if (canvasUnder(event)) drawing = true
}

// Not by the clock: where the page is busy, the canvas tells late, and a key is heard before a timer that is overdue. A
// timer that begins after the canvas's, and is as long, rings after it.
function released() {
  if (!drawing) return
  drawing = false
  clearTimeout(telling)
  telling = setTimeout(() => (telling = setTimeout(told, TELLS_AFTER_MS)), 0)
}

function told() {
  telling = null
  const keys = waiting
  waiting = []
  for (const [key, at] of keys) (at.isConnected ? at : document.body).dispatchEvent(key)
}

function typed(event) {
  const at = event.composedPath()[0]
  if (telling === null || again.has(event) || (at instanceof Element && at.closest('input, textarea, [contenteditable]'))) return
  event.preventDefault()
  event.stopImmediatePropagation()
  const copy = new KeyboardEvent(event.type, event)
  again.add(copy)
  waiting.push([copy, at])
}

export default function () {
  if (listens) return
  listens = true
  const early = { capture: true, passive: false }
  for (const kind of ['touchstart', 'touchmove', 'touchend', 'touchcancel']) window.addEventListener(kind, touched, early)
  window.addEventListener('mousedown', pressed, true)
  window.addEventListener('mouseup', released, true)
  window.addEventListener('keydown', typed, true)
}
