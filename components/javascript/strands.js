// Many lines, each through the same upright axes. Painted on a plain canvas: a thousand lines take some milliseconds,
// where WebGL without a graphics card takes half a second and more. What is chosen on the axes stays while lines come.
//
// data: {axes: [{label, ticks: [[place, words]], none}], lines: [{label, places: [0..1 | null], told: [words], shade: 0..1}],
//        scale: [[0..1, colour]], faint, height, summary}
//   none: whether a line may lack a place here; it then passes below the range. told: what the line has on each axis.
import './strands.css'
import { whenGone } from './lasting.js'

const NONE = -0.12 // where a line passes an axis on which it has no place
const [ABOVE, BELOW, LEFT, RIGHT] = [34, 16, 76, 40]
const NARROWEST = 92 // px from axis to axis; with less room one scrolls sideways
const NEAR_AXIS = 16
const NEAR_LINE = 9
const LEAST_DRAG = 4
const THEME_LOOK_MS = 1000
const pictures = new WeakMap()

function colours(scale) {
  const part = (hex, at) => Number.parseInt(hex.slice(at, at + 2), 16)
  return (shade) => {
    const k = Math.min(scale.length - 2, Math.max(0, scale.findLastIndex(([place]) => place <= shade)))
    const [[from, low], [to, high]] = [scale[k], scale[k + 1]]
    const share = Math.min(1, Math.max(0, (shade - from) / (to - from || 1)))
    return `rgb(${[1, 3, 5].map((at) => Math.round(part(low, at) + share * (part(high, at) - part(low, at)))).join(',')})`
  }
}

class Strands {
  constructor(parent) {
    this.root = parent.querySelector('.strands')
    this.base = document.createElement('canvas')
    this.base.setAttribute('role', 'img')
    this.over = document.createElement('canvas') // the line under the pointer
    this.over.className = 'over'
    this.over.setAttribute('aria-hidden', 'true')
    this.tip = document.createElement('div')
    this.tip.className = 'tip'
    this.tip.hidden = true
    const sheet = document.createElement('div')
    sheet.className = 'sheet'
    sheet.append(this.base, this.over, this.tip)
    this.root.replaceChildren(sheet)
    this.kept = new Map() // label of an axis -> [low, high], the part that is kept
    this.sizes = new ResizeObserver(() => this.draw())
    this.sizes.observe(this.root)
    this.over.onpointermove = (event) => (this.drag ? this.pull(event) : this.point(event))
    this.over.onpointerleave = () => this.forget()
    this.over.onpointerdown = (event) => this.press(event)
    this.over.onpointerup = () => this.release()
    this.over.onpointercancel = () => this.release()
    this.watch = setInterval(() => this.drawn && this.theme() !== this.drawn && this.draw(), THEME_LOOK_MS)
  }

  theme() {
    const style = getComputedStyle(this.root)
    return ['--st-text-color', '--st-border-color', '--st-font', '--st-background-color'].map((n) => style.getPropertyValue(n).trim()).join('|')
  }

  measure() {
    const { axes, height } = this.data
    const width = Math.max(this.root.clientWidth, LEFT + RIGHT + NARROWEST * (axes.length - 1))
    const ratio = window.devicePixelRatio || 1
    for (const canvas of [this.base, this.over]) {
      if (canvas.width === Math.round(width * ratio) && canvas.height === Math.round(height * ratio)) continue
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      canvas.style.width = `${width}px`
      canvas.style.height = `${height}px`
    }
    this.ratio = ratio
    this.apart = (width - LEFT - RIGHT) / Math.max(1, axes.length - 1)
    this.lows = axes.map((axis) => (axis.none ? NONE : 0))
  }

  x(axis) {
    return LEFT + axis * this.apart
  }

  y(axis, place) {
    const low = this.lows[axis]
    return this.data.height - BELOW - ((place - low) / (1 - low)) * (this.data.height - ABOVE - BELOW)
  }

  placeAt(axis, y) {
    const low = this.lows[axis]
    const share = (this.data.height - BELOW - y) / (this.data.height - ABOVE - BELOW)
    return low + Math.min(1, Math.max(0, share)) * (1 - low)
  }

  pen(canvas) {
    const pen = canvas.getContext('2d')
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
    pen.clearRect(0, 0, canvas.width, canvas.height)
    return pen
  }

  trace(pen, line) {
    pen.beginPath()
    line.places.forEach((place, axis) => pen.lineTo(this.x(axis), this.y(axis, place ?? NONE)))
  }

  passes(line) {
    return this.data.axes.every((axis, k) => {
      const part = this.kept.get(axis.label)
      const place = line.places[k] ?? NONE
      return !part || (place >= part[0] && place <= part[1])
    })
  }

  draw() {
    const { data } = this
    if (!data || !this.root.clientWidth) return
    this.drawn = this.theme()
    this.measure()
    const [text, border, font, ground] = this.drawn.split('|')
    const pen = this.pen(this.base)
    const colour = colours(data.scale)
    this.shown = data.lines.filter((line) => this.passes(line))
    pen.lineWidth = 1
    if (this.shown.length < data.lines.length) {
      pen.strokeStyle = data.faint
      pen.globalAlpha = 0.14
      for (const line of data.lines) {
        if (this.passes(line)) continue
        this.trace(pen, line)
        pen.stroke()
      }
    }
    pen.globalAlpha = data.lines.length > 100 ? 0.6 : 0.85
    pen.lineWidth = data.lines.length > 100 ? 1 : 1.5
    for (const line of this.shown) { // the best come last and lie on top
      pen.strokeStyle = colour(line.shade)
      this.trace(pen, line)
      pen.stroke()
    }
    pen.globalAlpha = 1
    data.axes.forEach((axis, k) => this.axis(pen, axis, k, { text, border, font, ground }))
    this.base.setAttribute('aria-label', data.summary)
    this.base.dataset.lines = data.lines.length
    this.base.dataset.kept = this.shown.length
    this.forget()
  }

  axis(pen, axis, k, { text, border, font, ground }) {
    const { height } = this.data
    const x = this.x(k)
    pen.strokeStyle = text || '#333'
    pen.globalAlpha = 0.55
    pen.lineWidth = 1
    pen.strokeRect(x, ABOVE, 0, height - ABOVE - BELOW)
    pen.globalAlpha = 1
    const part = this.kept.get(axis.label)
    if (part) {
      pen.fillStyle = text || '#333'
      pen.globalAlpha = 0.28
      pen.fillRect(x - 5, this.y(k, part[1]), 10, Math.max(2, this.y(k, part[0]) - this.y(k, part[1])))
      pen.globalAlpha = 1
    }
    pen.font = `600 12px ${font || 'sans-serif'}`
    pen.textBaseline = 'middle'
    pen.textAlign = k === this.data.axes.length - 1 ? 'right' : k ? 'center' : 'left'
    pen.fillStyle = text || '#333'
    const at = k === this.data.axes.length - 1 ? x + RIGHT - 2 : k ? x : 2
    pen.fillText(this.cut(pen, axis.label, this.apart - 10), at, 10)
    pen.font = `11px ${font || 'sans-serif'}`
    pen.textAlign = 'right'
    pen.strokeStyle = ground || '#fff'
    pen.lineWidth = 3
    pen.lineJoin = 'round'
    const ticks = axis.none ? [[NONE, 'none'], ...axis.ticks] : axis.ticks
    for (const [place, words] of ticks) {
      const y = this.y(k, place)
      const said = this.cut(pen, words, (k ? this.apart : LEFT) - 14)
      pen.strokeText(said, x - 8, y)
      pen.fillText(said, x - 8, y)
      pen.fillRect(x - 5, y - 0.5, 5, 1)
    }
  }

  cut(pen, words, room) {
    let said = words
    while (said.length > 1 && pen.measureText(said).width > room) said = `${said.slice(0, said.endsWith('…') ? -2 : -1)}…`
    return said
  }

  at(event) {
    const box = this.over.getBoundingClientRect()
    return { x: event.clientX - box.left, y: event.clientY - box.top }
  }

  axisAt(x) {
    const k = Math.round((x - LEFT) / this.apart)
    return k >= 0 && k < this.data.axes.length && Math.abs(x - this.x(k)) <= NEAR_AXIS ? k : -1
  }

  press(event) {
    const { x, y } = this.at(event)
    const axis = this.axisAt(x)
    if (axis < 0 || event.button || event.pointerType === 'touch') return // a finger scrolls the page
    this.over.setPointerCapture(event.pointerId)
    this.drag = { label: this.data.axes[axis].label, from: y, moved: false }
    event.preventDefault()
  }

  pull(event) {
    const { label, from } = this.drag
    const axis = this.data.axes.findIndex((one) => one.label === label)
    if (axis < 0) return // its choice was locked meanwhile
    const { y } = this.at(event)
    this.drag.moved ||= Math.abs(y - from) >= LEAST_DRAG
    if (!this.drag.moved) return
    const ends = [this.placeAt(axis, from), this.placeAt(axis, y)].sort((a, b) => a - b)
    this.kept.set(label, ends)
    this.draw()
  }

  release() {
    if (!this.drag) return
    const { label, moved } = this.drag
    this.drag = null
    if (moved) return
    this.kept.delete(label)
    this.draw()
  }

  forget() {
    if (this.pointed) this.pen(this.over)
    this.pointed = null
    this.tip.hidden = true
  }

  // the line nearest to the pointer, the best of equally near ones
  nearest({ x, y }) {
    const k = Math.min(this.data.axes.length - 2, Math.max(0, Math.floor((x - LEFT) / this.apart)))
    const share = (x - this.x(k)) / this.apart
    let [found, least] = [null, NEAR_LINE]
    if (share < 0 || share > 1) return null
    for (const line of this.shown) {
      const [from, to] = [this.y(k, line.places[k] ?? NONE), this.y(k + 1, line.places[k + 1] ?? NONE)]
      const far = Math.abs(from + share * (to - from) - y)
      if (far <= least) [found, least] = [line, far]
    }
    return found
  }

  point(event) {
    if (!this.data || !this.shown) return
    const place = this.at(event)
    this.over.style.cursor = this.axisAt(place.x) >= 0 ? 'ns-resize' : ''
    const line = this.nearest(place)
    if (!line) return this.forget()
    if (line !== this.pointed) {
      const pen = this.pen(this.over)
      this.trace(pen, line)
      pen.lineWidth = 3
      pen.strokeStyle = this.drawn.split('|')[0] || '#333'
      pen.stroke()
      this.pointed = line
      const rows = this.data.axes.map((axis, k) => `${axis.label}: ${line.told[k]}`)
      this.tip.replaceChildren(...[line.label, ...rows].map((row) => Object.assign(document.createElement('div'), { textContent: row })))
      this.tip.hidden = false
    }
    const wide = this.over.clientWidth - this.tip.offsetWidth - 4
    const left = place.x + 16 > wide ? place.x - this.tip.offsetWidth - 12 : place.x + 16
    const top = Math.min(place.y + 12, this.data.height - this.tip.offsetHeight)
    this.tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, top)}px)`
  }
}

export default function ({ parentElement, data }) {
  let picture = pictures.get(parentElement)
  if (!picture) {
    picture = new Strands(parentElement)
    pictures.set(parentElement, picture)
  }
  const came = JSON.stringify(data)
  if (came !== picture.came) {
    picture.data = data
    picture.came = came
    picture.draw()
  }
  return whenGone(parentElement, () => {
    clearInterval(picture.watch)
    picture.sizes.disconnect()
    pictures.delete(parentElement)
  })
}
