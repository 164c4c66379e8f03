// A map of numbers, rows x columns, in colours; it grows while one looks at it, and the picture never flickers: the same
// canvas is painted over. What lies under the pointer is told beside it; a press on a row picks it.
//
// data: {rows: [{id, label}], columns: [text], values: [[number | null]], low, high, log, format, picked, height, x_title, summary}
//   low, high: ends of the colours; with log both are above 0. format: "share" (0..1 as per cent) or "number".
// state "row": the id of the row that was pressed.
import './heatmap.css'
import { whenGone } from './lasting.js'

const COLOURS = ['#440154', '#472d7b', '#3b528b', '#2c728e', '#21918c', '#28ae80', '#5ec962', '#addc30', '#fde725'] // viridis
const LOWEST_ROW = 5
const TALLEST_ROW = 22
const BELOW = 34
const THEME_LOOK_MS = 1000
const maps = new WeakMap()

const RAMP = Array.from({ length: 256 }, (_, k) => {
  const place = (k / 255) * (COLOURS.length - 1)
  const from = Math.min(COLOURS.length - 2, Math.floor(place))
  const part = (hex, at) => Number.parseInt(hex.slice(at, at + 2), 16)
  const mixed = [1, 3, 5].map((at) => Math.round(part(COLOURS[from], at) + (place - from) * (part(COLOURS[from + 1], at) - part(COLOURS[from], at))))
  return `rgb(${mixed.join(',')})`
})

function words(value, format) {
  if (value === null || value === undefined) return 'not told'
  if (format === 'share') return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`
  if (value === 0) return '0'
  const size = Math.abs(value)
  return size >= 0.01 && size < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(1).replace('e+', 'e')
}

class HeatMap {
  constructor(parent) {
    this.root = parent.querySelector('.heatmap')
    this.canvas = document.createElement('canvas')
    this.canvas.setAttribute('role', 'img')
    this.tip = document.createElement('div')
    this.tip.className = 'tip'
    this.tip.hidden = true
    this.scale = document.createElement('div')
    this.scale.className = 'scale'
    this.root.replaceChildren(this.canvas, this.scale, this.tip)
    this.sizes = new ResizeObserver(() => this.draw())
    this.sizes.observe(this.root)
    this.canvas.onpointermove = (event) => this.point(event)
    this.canvas.onpointerleave = () => (this.tip.hidden = true)
    this.canvas.onclick = (event) => {
      const cell = this.cellAt(event)
      if (cell) this.tell('row', this.data.rows[cell.row].id)
    }
    this.watch = setInterval(() => this.drawn && this.theme() !== this.drawn && this.draw(), THEME_LOOK_MS)
  }

  theme() {
    const style = getComputedStyle(this.root)
    return ['--st-text-color', '--st-border-color', '--st-font'].map((n) => style.getPropertyValue(n).trim()).join('|')
  }

  // where a value lies between the ends, 0..1
  share(value) {
    const { low, high, log } = this.data
    const of = (v) => (log ? Math.log10(v) : v)
    if (log && value <= 0) return 0
    return high > low ? Math.min(1, Math.max(0, (of(value) - of(low)) / (of(high) - of(low)))) : 0.5
  }

  draw() {
    const { data } = this
    if (!data) return
    this.drawn = this.theme()
    const [text, border, font] = this.drawn.split('|')
    const width = Math.max(200, this.root.clientWidth)
    const tall = Math.max(LOWEST_ROW, Math.min(TALLEST_ROW, Math.floor((data.height - BELOW) / Math.max(1, data.rows.length))))
    const height = tall * data.rows.length + BELOW
    const ratio = window.devicePixelRatio || 1
    const resized = this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)
    if (resized) {
      this.canvas.width = Math.round(width * ratio)
      this.canvas.height = Math.round(height * ratio)
      this.canvas.style.width = `${width}px`
      this.canvas.style.height = `${height}px`
    }
    const pen = this.canvas.getContext('2d')
    pen.setTransform(ratio, 0, 0, ratio, 0, 0)
    pen.clearRect(0, 0, width, height)
    pen.font = `12px ${font || 'sans-serif'}`
    const left = Math.min(width * 0.3, 14 + Math.max(...data.rows.map((r) => pen.measureText(r.label).width), 20))
    const wide = (width - left - 2) / Math.max(1, data.columns.length)
    this.place = { left, tall, wide }
    pen.textBaseline = 'middle'
    const every = Math.max(1, Math.ceil(13 / tall))
    data.rows.forEach((row, r) => {
      const y = r * tall
      data.values[r].forEach((value, c) => {
        const x = left + c * wide
        if (value === null) {
          pen.fillStyle = border || '#8884'
          pen.globalAlpha = 0.35
          pen.fillRect(x, y + tall / 2 - 0.5, wide, 1)
          pen.globalAlpha = 1
          return
        }
        pen.fillStyle = RAMP[Math.round(255 * this.share(value))]
        pen.fillRect(x, y, Math.ceil(wide * 2) / 2 + 0.3, tall - (tall > 9 ? 1 : 0))
      })
      const picked = row.id === data.picked
      if (picked || r % every === 0) {
        pen.fillStyle = text || '#333'
        pen.globalAlpha = picked ? 1 : 0.85
        pen.font = `${picked ? '650 ' : ''}12px ${font || 'sans-serif'}`
        pen.textAlign = 'right'
        if (!picked || tall > 9 || r % every === 0) pen.fillText(row.label, left - 7, y + tall / 2, left - 10)
        pen.globalAlpha = 1
      }
      if (picked) {
        pen.strokeStyle = text || '#333'
        pen.lineWidth = 1.5
        pen.strokeRect(left - 1, y - 0.5, wide * data.columns.length + 1.5, tall)
      }
    })
    pen.font = `12px ${font || 'sans-serif'}`
    pen.fillStyle = text || '#333'
    pen.globalAlpha = 0.85
    const under = data.rows.length * tall
    const steps = Math.max(1, Math.ceil((46 * data.columns.length) / (width - left)))
    data.columns.forEach((name, c) => {
      if (c % steps) return
      pen.textAlign = 'center'
      pen.fillText(name, Math.min(width - 14, left + (c + 0.5) * wide), under + 11)
    })
    pen.textAlign = 'right'
    pen.fillText(data.x_title, width - 2, under + 26)
    pen.globalAlpha = 1
    this.legend()
    this.canvas.setAttribute('aria-label', data.summary)
    this.canvas.dataset.cells = data.values.reduce((sum, row) => sum + row.filter((v) => v !== null).length, 0)
  }

  legend() {
    const { low, high, log, format } = this.data
    const middle = log ? Math.sqrt(low * high) : (low + high) / 2
    const ends = [low, middle, high].map((v) => words(v, format))
    const bar = `linear-gradient(to right, ${COLOURS.join(', ')})`
    if (this.scale.dataset.of === ends.join()) return
    this.scale.dataset.of = ends.join()
    const line = document.createElement('div')
    line.className = 'bar'
    line.style.background = bar
    const numbers = document.createElement('div')
    numbers.className = 'ends'
    numbers.replaceChildren(...ends.map((end) => Object.assign(document.createElement('span'), { textContent: end })))
    this.scale.replaceChildren(line, numbers)
  }

  cellAt(event) {
    if (!this.place || !this.data) return null
    const box = this.canvas.getBoundingClientRect()
    const row = Math.floor((event.clientY - box.top) / this.place.tall)
    const column = Math.floor((event.clientX - box.left - this.place.left) / this.place.wide)
    if (row < 0 || row >= this.data.rows.length || column >= this.data.columns.length) return null
    return { row, column, x: event.clientX - box.left, y: event.clientY - box.top }
  }

  point(event) {
    const cell = this.cellAt(event)
    this.canvas.style.cursor = cell ? 'pointer' : ''
    if (!cell || cell.column < 0) {
      this.tip.hidden = true
      return
    }
    const value = this.data.values[cell.row][cell.column]
    this.tip.textContent = `${this.data.rows[cell.row].label} · ${this.data.x_title.toLowerCase()} ${this.data.columns[cell.column]} · ${words(value, this.data.format)}`
    this.tip.hidden = false
    const room = this.root.clientWidth - this.tip.offsetWidth - 4
    this.tip.style.transform = `translate(${Math.max(0, Math.min(room, cell.x + 12))}px, ${cell.y + 14}px)`
  }
}

export default function ({ parentElement, data, setStateValue }) {
  let map = maps.get(parentElement)
  if (!map) {
    map = new HeatMap(parentElement)
    maps.set(parentElement, map)
  }
  map.tell = setStateValue
  const came = JSON.stringify(data)
  if (came !== map.came) {
    map.data = data
    map.came = came
    map.draw()
  }
  return whenGone(parentElement, () => {
    clearInterval(map.watch)
    map.sizes.disconnect()
    maps.delete(parentElement)
  })
}
