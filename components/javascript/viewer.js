// Looking through a scan: the volume comes once by URL, everything else happens here. Wheel or arrow keys = slice, drag =
// window/level (a finger, too), ctrl + wheel or two fingers = zoom, shift + drag = move, M = measure, 3 = three planes.
//
// data: {id, url, label, height, planes, slice, heard, follow, opacity, boxes: [{name, colour, x0, y0, x1, y1, slice, score, dashed}],
//   layers: [{id, url, kind: "mask" | "heat", name, slices, names, colours}]}
//   boxes in pixels of the scan, edges at whole numbers; slice null = on every slice. slice: where to go, when it changes.
//   heard: the number of the last "seen" that Python knows.
//   layers: fetched like the scan; slices = the scan's slices that they belong to, null = all. names, colours: of structure 1, 2, ...
// state "seen": {id, seq, slice, center, width, inverted}, once the hand rests, where `follow` asks for it.
import './viewer.css'
import { whenGone } from './lasting.js'
import { Controls, make } from './viewer/controls.js'
import { slicesOf, valueAt } from './viewer/overlay.js'
import { Pane } from './viewer/pane.js'
import { Refused, fetchVolume } from './viewer/volume.js'
import { Painter } from './viewer/window.js'

const REST_MS = 250
const NOTCH = 50 // a wheel turns by at least this; a touchpad tells smaller ways, which are added up
const PLANE_NAMES = { H: 'Axial', F: 'Axial', A: 'Coronal', P: 'Coronal', L: 'Sagittal', R: 'Sagittal' }
const UNKNOWN_NAMES = ['Slice', 'Along the rows', 'Along the columns']
const viewers = new WeakMap()

const within = (value, most) => Math.min(most, Math.max(0, value))

class Viewer {
  constructor(parent) {
    this.root = parent.querySelector('.viewer')
    this.boxes = []
    this.layers = []
    this.measures = []
    this.hidden = new Set()
    this.opacity = 0.6
    this.tool = 'window'
    this.planes = false
    this.inverted = false
    this.turned = 0
    this.fingers = new Map()
    this.controls = new Controls(this)
    this.panes = [0, 1, 2].map((plane) => new Pane(this, plane))
    this.message = make('div', { class: 'message', aria: { live: 'polite' } })
    this.stage = make(
      'div',
      { class: 'stage', tabIndex: 0, aria: { role: 'application', label: 'Scan' } },
      ...this.panes.map((p) => p.element),
      this.message,
    )
    const { bar, slices, told, legend } = this.controls
    this.root.replaceChildren(bar, this.stage, slices, told, legend)
    this.stage.onkeydown = (event) => this.press(event)
    this.stage.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    for (const pane of this.panes) this.listen(pane)
    this.sizes = new ResizeObserver(() => this.draw())
    this.sizes.observe(this.stage)
    this.onFull = () => {
      this.root.classList.toggle('full', this.isFull)
      this.volume && this.controls.update()
    }
    document.addEventListener('fullscreenchange', this.onFull)
  }

  // -- what Python says

  use(data, tell) {
    this.data = data
    this.tell = tell
    this.seq ??= data.heard
    this.stage.style.setProperty('--height', `${data.height}px`)
    const another = data.id !== this.id
    if (another) this.open(data)
    if (another || !this.volume) this.asked = data.slice // it is where one begins
    else if (data.slice !== this.asked && data.heard === this.seq && !this.timer) {
      // Python has heard all that was told, so this is no echo of where one was. What is asked sooner waits: once the hand
      // has rested Python hears of it, and asks again.
      this.asked = data.slice
      if (data.slice !== null) this.goTo(0, data.slice, false)
    }
    const over = JSON.stringify([data.boxes, data.layers])
    if (over !== this.over) {
      this.over = over
      this.boxes = data.boxes
      this.openLayers(data.layers)
      this.volume && this.explain()
      this.draw()
    }
  }

  async open(data) {
    this.id = data.id
    this.volume = null
    this.root.dataset.ready = 'false'
    this.measures = []
    this.coming?.abort()
    this.coming = new AbortController()
    const { signal } = this.coming
    this.root.classList.add('empty')
    this.controls.bar.inert = true
    this.controls.slices.hidden = true
    this.say('Loading the scan ...')
    try {
      const volume = await fetchVolume(data.id, data.url, signal, (done, total) => this.progress(done, total))
      if (signal.aborted) return
      this.begin(volume)
    } catch (error) {
      if (signal.aborted) return
      this.fail(error instanceof Refused ? error.message : 'The scan could not be shown: there is not enough memory for it.')
    }
  }

  begin(volume) {
    this.volume = volume
    const { header, slices, height, width } = volume
    this.painter = new Painter(volume)
    const [z, y, x] = header.spacing_mm
    this.known = [Boolean(z), Boolean(y && x), Boolean(y && x)]
    const square = y && x ? [y, x] : [1, 1]
    this.steps = [z || square[0], ...square]
    this.axes = header.axes ?? ''
    this.place = [within(this.data.slice ?? slices >> 1, slices - 1), height >> 1, width >> 1]
    this.inverted = false
    this.windowName = header.windows[0]?.name ?? ''
    this.window = header.windows[0] ?? null
    this.opacity = this.data.opacity
    this.tool = this.painter.colour ? 'pan' : 'window'
    this.planes = slices > 1 && this.data.planes
    for (const pane of this.panes) {
      pane.reset()
      pane.painted = null
    }
    this.root.classList.remove('empty')
    this.controls.bar.inert = false
    this.message.replaceChildren()
    this.stage.removeAttribute('data-error')
    this.controls.begin()
    this.explain()
    this.draw()
  }

  openLayers(layers) {
    const before = this.layers
    this.layers = layers.map((overlay, number) => {
      const same = before.find((layer) => layer.overlay.id === overlay.id)
      return { number, overlay, volume: same?.volume ?? null, hidden: same?.hidden ?? new Set(), failed: '' }
    })
    for (const pane of this.panes) pane.overlayCuts.clear()
    for (const layer of this.layers) {
      if (layer.volume) continue
      fetchVolume(layer.overlay.id, layer.overlay.url, undefined)
        .then((volume) => {
          layer.volume = volume
        })
        .catch((error) => {
          layer.failed = error.message
        })
        .finally(() => {
          if (!this.layers.includes(layer) || !this.volume) return
          this.explain()
          this.draw()
        })
    }
  }

  progress(done, total) {
    const share = total ? done / total : 0
    this.say(`Loading the scan ... ${(done / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ''} MB`, share)
  }

  say(words, share = null) {
    const parts = [make('p', {}, words)]
    if (share !== null) parts.push(make('progress', { max: 1, value: share, aria: { label: 'Loading the scan' } }))
    this.message.replaceChildren(...parts)
  }

  fail(words) {
    const again = make('button', { type: 'button' }, 'Try again')
    again.onclick = () => this.open(this.data)
    this.stage.dataset.error = words
    this.message.replaceChildren(make('p', {}, words), again)
  }

  // -- what changes the picture

  knownSteps(plane) {
    return plane === 0 ? this.known[1] : this.known[0] && this.known[1]
  }

  get font() {
    return `600 12px ${getComputedStyle(this.root).fontFamily}`
  }

  goTo(plane, index, tell = true) {
    const most = [this.volume.slices, this.volume.height, this.volume.width][plane] - 1
    const next = within(Math.round(index), most)
    if (next === this.place[plane]) return
    this.place[plane] = next
    this.changed(tell)
  }

  choose(name) {
    const found = this.volume.header.windows.find((w) => w.name === name)
    this.windowName = name
    this.window = found ?? { name: 'own', center: this.window.center, width: this.window.width, function: 'LINEAR_EXACT' }
    this.changed()
  }

  setWindow(center, width) {
    this.windowName = 'own'
    this.window = { name: 'own', center, width: Math.max(width, 1e-6), function: 'LINEAR_EXACT' }
    this.changed()
  }

  invert() {
    this.inverted = !this.inverted
    this.changed()
  }

  take(tool) {
    this.tool = tool
    this.drawing = null
    this.changed(false)
  }

  clearMeasures() {
    this.measures = []
    this.drawing = null
    this.changed(false)
  }

  setOpacity(value) {
    this.opacity = value
    this.draw()
  }

  zoomBy(factor, pane = this.active, x = undefined, y = undefined) {
    pane.zoomTo(pane.zoom * factor, x, y)
    this.changed(false)
  }

  fit() {
    for (const pane of this.panes) pane.reset()
    this.changed(false)
  }

  togglePlanes() {
    if (this.volume.slices < 2) return
    this.planes = !this.planes
    this.fit()
  }

  get isFull() {
    const of = this.root.getRootNode()
    return (of.fullscreenElement ?? document.fullscreenElement) === this.root
  }

  toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen()
    else this.root.requestFullscreen?.().catch(() => this.controls.full.setAttribute('hidden', ''))
  }

  get active() {
    return (this.planes && this.lastPane) || this.panes[0]
  }

  changed(tell = true) {
    this.controls.update()
    this.draw()
    if (!tell || !this.data.follow) return
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.report(), REST_MS)
  }

  report() {
    this.timer = null
    const { window: shown } = this
    const seen = {
      id: this.id,
      slice: this.place[0],
      center: shown ? shown.center : null,
      width: shown ? shown.width : null,
      inverted: this.inverted,
    }
    const text = JSON.stringify(seen)
    if (text === this.reported) return
    this.reported = text
    this.seq += 1
    this.tell('seen', { ...seen, seq: this.seq })
  }

  explain() {
    const entries = []
    const toggled = (set, key) => () => (set.has(key) ? set.delete(key) : set.add(key))
    const counts = new Map()
    for (const box of this.boxes) {
      const known = counts.get(box.name)
      if (known) known.count += 1
      else counts.set(box.name, { name: box.name, colour: box.colour, count: 1 })
    }
    for (const entry of counts.values()) {
      entries.push({ ...entry, pressed: !this.hidden.has(entry.name), press: toggled(this.hidden, entry.name) })
    }
    const failed = []
    for (const layer of this.layers) {
      const { overlay } = layer
      if (layer.failed) failed.push(`${overlay.name || 'The overlay'}: ${layer.failed}`)
      if (overlay.kind === 'heat') {
        const colour = 'linear-gradient(90deg, #180f3e, #781c6d, #cf4446, #fb9b06, #fcffa4)'
        entries.push({ name: overlay.name, colour, pressed: !this.hidden.has(overlay.name), press: toggled(this.hidden, overlay.name) })
        continue
      }
      overlay.names.forEach((name, k) => {
        const press = toggled(layer.hidden, k + 1)
        entries.push({ name, colour: overlay.colours[k], pressed: !layer.hidden.has(k + 1), press })
      })
    }
    this.trouble = failed.join(' ')
    this.controls.explain(entries, this.layers.length > 0)
    const { slices } = this.volume
    const marked = new Set(this.boxes.filter((b) => b.slice !== null && b.slice !== undefined).map((b) => b.slice))
    for (const layer of this.layers) if (layer.volume) for (const s of slicesOf(layer.overlay, layer.volume)) marked.add(s)
    this.controls.mark(slices > 1 && marked.size < slices ? [...marked].sort((a, b) => a - b) : [], slices)
  }

  // -- hands

  listen(pane) {
    const { canvas } = pane
    canvas.onpointerdown = (event) => this.down(pane, event)
    canvas.onpointermove = (event) => this.move(pane, event)
    canvas.onpointerup = canvas.onpointercancel = (event) => this.up(pane, event)
    canvas.onpointerleave = () => {
      this.pointer = null
      this.tellValue()
    }
    canvas.ondblclick = () => this.tool !== 'measure' && this.fit()
    canvas.oncontextmenu = (event) => event.preventDefault()
  }

  at(pane, event) {
    const box = pane.canvas.getBoundingClientRect()
    return [event.clientX - box.left, event.clientY - box.top]
  }

  down(pane, event) {
    if (!this.volume) return
    if (this.fingers.size && pane !== this.lastPane) return // another hand, on another plane
    this.stage.focus({ preventScroll: true })
    pane.canvas.setPointerCapture(event.pointerId)
    const [x, y] = this.at(pane, event)
    this.fingers.set(event.pointerId, [x, y])
    this.lastPane = pane
    if (this.fingers.size > 1) {
      this.giveBack()
      this.hold = { kind: 'pinch' }
      return
    }
    const moving = event.button === 1 || event.shiftKey || (event.button === 0 && this.tool === 'pan')
    const kind = moving
      ? 'pan'
      : event.button === 2
        ? 'window'
        : this.planes && this.tool === 'window'
          ? 'cross'
          : this.tool
    if (kind === 'window' && !this.window) return
    this.hold = { kind, x, y, window: this.window, windowName: this.windowName, place: [...this.place], moved: false }
    if (kind === 'cross') this.cross(pane, x, y)
    if (kind === 'measure') this.point(pane, x, y)
    event.preventDefault()
  }

  giveBack() {
    // what the first finger of two has changed before the second came
    const { hold } = this
    if (hold?.kind === 'window') {
      this.window = hold.window
      this.windowName = hold.windowName
    } else if (hold?.kind === 'cross') this.place = hold.place
    else if (hold?.kind === 'measure' && this.drawing) {
      this.measures.pop()
      this.drawing = null
    } else return
    this.changed()
  }

  move(pane, event) {
    if (!this.volume) return
    const [x, y] = this.at(pane, event)
    this.pointer = { pane, x, y }
    this.lastPane = this.hold ? this.lastPane : pane
    const before = this.fingers.get(event.pointerId)
    if (before) this.fingers.set(event.pointerId, [x, y])
    const { hold } = this
    if (hold?.kind === 'pinch' && before && this.fingers.size === 2) {
      const other = [...this.fingers].find(([id]) => id !== event.pointerId)[1]
      const [was, is] = [before, [x, y]].map(([a, b]) => Math.hypot(a - other[0], b - other[1]))
      if (was > 0) pane.zoomTo((pane.zoom * is) / was, (x + other[0]) / 2, (y + other[1]) / 2)
      pane.pan((x - before[0]) / 2, (y - before[1]) / 2)
      this.changed(false)
    } else if (hold && before) {
      hold.moved ||= Math.hypot(x - hold.x, y - hold.y) > 4
      if (hold.kind === 'pan') {
        if (pane.zoom > 1) pane.pan(x - before[0], y - before[1])
        this.draw()
      } else if (hold.kind === 'window') {
        const { center, width } = hold.window
        this.setWindow(center + ((y - hold.y) * width) / 300, width * Math.exp((x - hold.x) / 200))
      } else if (hold.kind === 'cross') this.cross(pane, x, y)
    }
    if (this.drawing && this.drawing.plane === pane.plane) {
      this.drawing.to = pane.toCut(x, y)
      this.draw()
    }
    this.tellValue()
  }

  up(pane, event) {
    this.fingers.delete(event.pointerId)
    const { hold } = this
    if (hold?.kind === 'measure' && hold.moved && this.drawing) this.drawing = null // drawn in one go
    if (!this.fingers.size) this.hold = null
    this.volume && this.controls.update()
  }

  cross(pane, x, y) {
    const [u, v] = pane.toCut(x, y)
    const [columns, rows] = pane.size
    const voxel = pane.voxelAt(within(u, columns - 1e-6), within(v, rows - 1e-6))
    if (!voxel || voxel.every((n, k) => n === this.place[k])) return
    this.place = voxel
    this.changed()
  }

  point(pane, x, y) {
    const place = pane.toCut(x, y)
    const { drawing } = this
    if (drawing && drawing.plane === pane.plane && drawing.index === pane.index) {
      drawing.to = place
      this.drawing = null
    } else {
      this.drawing = { plane: pane.plane, index: pane.index, from: place, to: place }
      this.measures.push(this.drawing)
    }
    this.changed(false)
  }

  wheel(event) {
    if (!this.volume) return
    const pane = this.panes.find((p) => p.canvas === event.composedPath()[0]) ?? this.panes[0]
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault()
      const [x, y] = this.at(pane, event)
      this.zoomBy(Math.exp(-Math.sign(event.deltaY) * Math.min(0.25, Math.abs(event.deltaY) / 100)), pane, x, y)
      return
    }
    if (pane.depth < 2 || (!this.planes && this.volume.slices < 2)) return // the page scrolls
    event.preventDefault()
    const way = event.deltaMode === 0 ? event.deltaY : event.deltaY * NOTCH
    this.turned = Math.abs(way) >= NOTCH ? Math.sign(way) * NOTCH : this.turned + way
    if (Math.abs(this.turned) < NOTCH) return
    this.goTo(pane.plane, this.place[pane.plane] + Math.sign(this.turned))
    this.turned = 0
  }

  press(event) {
    if (!this.volume || event.ctrlKey || event.metaKey || event.altKey) return
    const pane = this.active
    const step = (by) => () => this.goTo(pane.plane, this.place[pane.plane] + by)
    const acts = {
      ArrowUp: step(-1),
      ArrowLeft: step(-1),
      ArrowDown: step(1),
      ArrowRight: step(1),
      PageUp: step(-10),
      PageDown: step(10),
      Home: () => this.goTo(pane.plane, 0),
      End: () => this.goTo(pane.plane, pane.depth - 1),
      '+': () => this.zoomBy(1.25),
      '=': () => this.zoomBy(1.25),
      '-': () => this.zoomBy(1 / 1.25),
      0: () => this.fit(),
      i: () => this.invert(),
      b: () => this.window && this.take('window'),
      v: () => this.take('pan'),
      m: () => this.take('measure'),
      3: () => this.togglePlanes(),
      f: () => this.toggleFull(),
      Escape: () => this.clearMeasures(),
    }
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key]
    if (event.key === 'Escape' && !this.measures.length) return // a dialog may want it
    if (!act) return
    event.preventDefault()
    event.stopPropagation() // no shortcut of the page, too
    act()
  }

  // -- words and pictures

  tellValue() {
    const parts = []
    const { pointer } = this
    if (pointer && this.volume) {
      const [u, v] = pointer.pane.toCut(pointer.x, pointer.y)
      const voxel = pointer.pane.voxelAt(u, v)
      if (voxel) parts.push(this.valueWords(...voxel))
    }
    if (!parts.length) parts.push(this.restWords())
    if (this.trouble) parts.push(this.trouble)
    this.controls.told.textContent = parts.join(' · ')
  }

  valueWords(slice, y, x) {
    const value = this.painter.at(slice, y, x)
    const { unit } = this.volume.header
    const number = (n) => (Number.isInteger(n) ? String(n) : n.toPrecision(4)).replace('-', '−')
    const told =
      value === null
        ? 'outside the picture'
        : Array.isArray(value)
          ? `red ${value[0]}, green ${value[1]}, blue ${value[2]}`
          : `${number(value)}${unit ? ` ${unit}` : ''}`
    const where = this.volume.slices > 1 ? `x ${x}, y ${y}, slice ${slice + 1}` : `x ${x}, y ${y}`
    const over = []
    for (const layer of this.layers) {
      if (!layer.volume) continue
      const there = valueAt(layer.overlay, layer.volume, this.volume, slice, y, x)
      if (!there) continue
      over.push(
        layer.overlay.kind === 'heat'
          ? `${layer.overlay.name} ${Math.round(there / 2.55)} %`
          : (layer.overlay.names[there - 1] ?? `structure ${there}`),
      )
    }
    return [where, told, ...over].join(' · ')
  }

  restWords() {
    if (!this.volume) return ''
    if (this.planes) return this.known[0] ? 'Drag = place of the cross, wheel = through the plane' : 'The distance between the slices is not known: it is drawn as if it were that of the pixels'
    const parts = []
    const fingers = matchMedia('(pointer: coarse)').matches // a phone or a tablet, which has no wheel
    if (this.volume.slices > 1 && !fingers) parts.push('Wheel = slice')
    parts.push(this.painter.colour ? 'drag = move' : 'drag = brightness and contrast')
    parts.push(fingers ? 'two fingers = zoom' : 'ctrl + wheel = zoom')
    const text = parts.join(', ')
    return text[0].toUpperCase() + text.slice(1)
  }

  draw() {
    if (!this.volume || this.waiting) return
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null
      if (this.volume) this.paint()
    })
  }

  paint() {
    const begun = performance.now()
    this.stage.classList.toggle('planes', this.planes)
    this.painter.use(this.window, this.inverted)
    for (const pane of this.panes) pane.element.hidden = pane.plane > 0 && !this.planes // each decides how large the others are
    for (const pane of this.panes) {
      if (pane.element.hidden) continue
      pane.name.textContent = this.planes ? this.nameOf(pane) : ''
      pane.draw()
    }
    const [slice] = this.place
    const { slices } = this.volume
    this.stage.dataset.tool = this.tool
    this.root.dataset.lengths = this.measures.map((m) => this.panes[m.plane].lengthWords(m.from, m.to)).join(' | ')
    Object.assign(this.root.dataset, { ready: 'true', slice: String(slice), ms: (performance.now() - begun).toFixed(2) })
    const of = slices > 1 ? `, slice ${slice + 1} of ${slices}. Arrow keys change the slice` : ''
    this.stage.setAttribute('aria-label', `${this.data.label}${of}`)
    this.tellValue()
  }

  nameOf(pane) {
    const name = PLANE_NAMES[this.axes[[2, 1, 0][pane.plane]]] ?? UNKNOWN_NAMES[pane.plane]
    return `${name} ${pane.index + 1} / ${pane.depth}`
  }

  end() {
    this.coming?.abort()
    clearTimeout(this.timer)
    cancelAnimationFrame(this.waiting)
    this.sizes.disconnect()
    document.removeEventListener('fullscreenchange', this.onFull)
  }
}

export default function ({ parentElement, data, setStateValue }) {
  let viewer = viewers.get(parentElement)
  if (!viewer) {
    viewer = new Viewer(parentElement)
    viewers.set(parentElement, viewer)
  }
  viewer.use(data, setStateValue)
  return whenGone(parentElement, () => {
    viewer.end()
    viewers.delete(parentElement)
  })
}
