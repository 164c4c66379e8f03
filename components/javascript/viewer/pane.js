// One view of the volume on a canvas of its own: where a pixel of the scan lies on the screen, and drawing all of it.
import { depthOf } from './volume.js'
import { pictureOf } from './overlay.js'

const RULER_PX = 150 // at most
const MOST_ZOOM = 40
const SHARP_FROM = 4 // screen pixels per scan pixel from which pixels are shown as squares
const INK = 'rgba(255,255,255,.92)'
const SHADOW = 'rgba(0,0,0,.75)'
const CROSS = 'rgba(255,196,61,.8)'
const MEASURE = '#ffd54a'

// The longest round length (1, 2, 5, 10, ...) that is not longer than `most`.
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most))
  return [5, 2, 1].map((n) => n * power).find((length) => length <= most) ?? power
}

const opposite = { L: 'R', R: 'L', A: 'P', P: 'A', H: 'F', F: 'H' }

export class Pane {
  constructor(viewer, plane) {
    this.viewer = viewer
    this.plane = plane
    this.element = document.createElement('div')
    this.element.className = 'pane'
    this.element.dataset.plane = String(plane)
    this.canvas = document.createElement('canvas')
    this.name = document.createElement('span')
    this.name.className = 'name'
    this.element.append(this.canvas, this.name)
    this.zoom = 1
    this.centre = null // in columns and rows; null = the middle
    this.overlayCuts = new Map()
    this.scratch = document.createElement('canvas')
  }

  // -- geometry: columns u to the right, rows v downwards, both in pixels of the cut, edges at whole numbers

  get size() {
    const { slices, height, width } = this.viewer.volume
    return [
      [width, height],
      [width, slices],
      [height, slices],
    ][this.plane]
  }

  // Millimetres (or, where unknown, pixels) along a row and down a column.
  get steps() {
    const [z, y, x] = this.viewer.steps
    return [
      [x, y],
      [x, z],
      [y, z],
    ][this.plane]
  }

  get index() {
    return this.viewer.place[this.plane]
  }

  // A scan whose slices lead towards the head is drawn with the head up in the other planes.
  get upsideDown() {
    return this.plane > 0 && this.viewer.axes[2] === 'H'
  }

  get letters() {
    const { axes } = this.viewer
    if (axes.length !== 3) return null
    const known = (letter) => (letter === '-' ? '' : letter)
    const across = known(this.plane === 2 ? axes[1] : axes[0])
    const down = known( this.plane === 0 ? axes[1] : this.upsideDown ? opposite[axes[2]] : axes[2])
    return { right: across, left: opposite[across] ?? '', bottom: down, top: opposite[down] ?? '' }
  }

  // Screen pixels (CSS) per millimetre at which the whole cut fits.
  fitScale() {
    const [columns, rows] = this.size
    const [du, dv] = this.steps
    return Math.min(this.width / (columns * du), this.height / (rows * dv))
  }

  get scale() {
    return this.fitScale() * this.zoom
  }

  // Where the cut lies: its top left corner and the size of one of its pixels, in CSS pixels of the canvas.
  get frame() {
    const [columns, rows] = this.size
    const [du, dv] = this.steps
    const { scale } = this
    const [u, v] = this.centre ?? [columns / 2, rows / 2]
    const [pu, pv] = [du * scale, dv * scale]
    return { left: this.width / 2 - u * pu, top: this.height / 2 - (this.upsideDown ? rows - v : v) * pv, pu, pv, columns, rows }
  }

  toScreen(u, v) {
    const { left, top, pu, pv, rows } = this.frame
    return [left + u * pu, top + (this.upsideDown ? rows - v : v) * pv]
  }

  toCut(x, y) {
    const { left, top, pu, pv, rows } = this.frame
    const v = (y - top) / pv
    return [(x - left) / pu, this.upsideDown ? rows - v : v]
  }

  // Column, row and slice of the voxel under a place of the cut; null outside.
  voxelAt(u, v) {
    const [columns, rows] = this.size
    if (u < 0 || v < 0 || u >= columns || v >= rows) return null
    const [a, b] = [Math.floor(u), Math.floor(v)]
    return [
      [this.index, b, a],
      [b, this.index, a],
      [b, a, this.index],
    ][this.plane]
  }

  zoomTo(zoom, x = this.width / 2, y = this.height / 2) {
    const [u, v] = this.toCut(x, y)
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom))
    if (this.zoom === 1) this.centre = null
    else {
      this.centre ??= this.size.map((n) => n / 2)
      const [x1, y1] = this.toScreen(u, v)
      this.pan(x - x1, y - y1)
    }
  }

  pan(dx, dy) {
    const { pu, pv } = this.frame
    const [columns, rows] = this.size
    const [u, v] = this.centre ?? [columns / 2, rows / 2]
    const within = (value, most) => Math.min(most, Math.max(0, value))
    this.centre = [within(u - dx / pu, columns), within(v - (this.upsideDown ? -dy : dy) / pv, rows)]
  }

  reset() {
    this.zoom = 1
    this.centre = null
  }

  // -- drawing

  // Takes the size of its element; returns whether there is anything to draw on.
  measure() {
    const ratio = window.devicePixelRatio || 1
    const { clientWidth, clientHeight } = this.element
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)]
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width
      this.canvas.height = height
    }
    this.width = clientWidth
    this.height = clientHeight
    this.ratio = ratio
    return clientWidth > 0 && clientHeight > 0
  }

  draw() {
    if (!this.measure()) return
    const context = this.canvas.getContext('2d')
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.fillStyle = '#000'
    context.fillRect(0, 0, this.canvas.width, this.canvas.height)
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0)
    this.drawScan(context)
    this.drawOverlays(context)
    this.drawBoxes(context)
    this.drawCross(context)
    this.drawMeasures(context)
    this.drawLetters(context)
    this.drawRuler(context)
  }

  drawScan(context) {
    const { viewer, scratch } = this
    const [columns, rows] = this.size
    const key = `${viewer.id}|${viewer.painter.key}|${this.index}`
    if (this.painted !== key) {
      this.painted = key
      if (scratch.width !== columns || scratch.height !== rows || !this.image) {
        scratch.width = columns
        scratch.height = rows
        this.image = new ImageData(columns, rows)
      }
      viewer.painter.fill(this.image, this.plane, this.index)
      scratch.getContext('2d').putImageData(this.image, 0, 0)
    }
    this.place(context, scratch, Math.min(this.frame.pu, this.frame.pv) < SHARP_FROM)
  }

  // Draws a picture of the whole cut where the cut lies.
  place(context, picture, smooth) {
    const { left, top, pu, pv, columns, rows } = this.frame
    context.imageSmoothingEnabled = smooth
    context.imageSmoothingQuality = 'high'
    context.save()
    context.translate(left, top)
    if (this.upsideDown) {
      context.translate(0, rows * pv)
      context.scale(1, -1)
    }
    context.drawImage(picture, 0, 0, columns * pu, rows * pv)
    context.restore()
  }

  drawOverlays(context) {
    const { viewer } = this
    for (const shown of viewer.layers) {
      if (!shown.volume || viewer.hidden.has(shown.overlay.name)) continue
      const key = `${shown.overlay.id}|${this.index}|${[...shown.hidden].join()}`
      let cut = this.overlayCuts.get(shown.number)
      if (!cut || cut.key !== key) {
        cut = { key, picture: pictureOf(shown.overlay, shown.volume, viewer.volume, this.plane, this.index, shown.hidden) }
        this.overlayCuts.set(shown.number, cut)
      }
      if (!cut.picture) continue
      context.globalAlpha = viewer.opacity
      this.place(context, cut.picture, shown.overlay.kind === 'heat')
      context.globalAlpha = 1
    }
  }

  drawBoxes(context) {
    const { viewer } = this
    context.lineWidth = 2
    context.font = viewer.font
    for (const box of viewer.boxes) {
      if (viewer.hidden.has(box.name)) continue
      const cut = this.boxIn(box)
      if (!cut) continue
      const [x0, y0] = this.toScreen(cut[0], cut[1])
      const [x1, y1] = this.toScreen(cut[2], cut[3])
      const [left, top, width, height] = [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)]
      context.strokeStyle = SHADOW
      context.setLineDash([])
      context.lineWidth = 4
      context.strokeRect(left, top, width, height)
      context.strokeStyle = box.colour
      context.setLineDash(box.dashed ? [6, 4] : [])
      context.lineWidth = 2
      context.strokeRect(left, top, width, height)
      context.setLineDash([])
      if (this.plane > 0) continue
      const told = box.score === null || box.score === undefined ? box.name : `${box.name} ${Math.round(100 * box.score)} %`
      // What a model proposes is named below its box, what a person drew above: they often lie on one another.
      if (told) this.chip(context, told, left - 1, box.dashed ? top + height + 19 : top, box.colour)
    }
  }

  // [u0, v0, u1, v1] of a box in this cut, null where it is not met. A box without a slice lies on all of them.
  boxIn({ x0, y0, x1, y1, slice }) {
    const { index, plane } = this
    const known = slice !== null && slice !== undefined
    if (plane === 0) return known && slice !== index ? null : [x0, y0, x1, y1]
    if (!known) return null
    if (plane === 1) return y0 < index + 1 && y1 > index ? [x0, slice, x1, slice + 1] : null
    return x0 < index + 1 && x1 > index ? [y0, slice, y1, slice + 1] : null
  }

  chip(context, text, x, y, colour) {
    const width = context.measureText(text).width + 8
    const at = Math.min(Math.max(0, x), Math.max(0, this.width - width))
    const top = Math.min(y >= 18 ? y - 18 : y + 1, this.height - 17)
    context.fillStyle = colour
    context.fillRect(at, top, width, 17)
    context.fillStyle = lightness(colour) > 0.45 ? '#111' : '#fff'
    context.textAlign = 'left'
    context.textBaseline = 'middle'
    context.fillText(text, at + 4, top + 9)
  }

  drawCross(context) {
    const { viewer } = this
    if (!viewer.planes) return
    const [slice, row, column] = viewer.place
    const [u, v] = [
      [column, row],
      [column, slice],
      [row, slice],
    ][this.plane]
    const [x, y] = this.toScreen(u + 0.5, v + 0.5)
    const gap = 9
    context.strokeStyle = CROSS
    context.lineWidth = 1
    context.beginPath()
    for (const [a, b, c, d] of [
      [0, y, x - gap, y],
      [x + gap, y, this.width, y],
      [x, 0, x, y - gap],
      [x, y + gap, x, this.height],
    ]) {
      context.moveTo(a, b)
      context.lineTo(c, d)
    }
    context.stroke()
  }

  drawMeasures(context) {
    const { viewer } = this
    for (const { plane, index, from, to } of viewer.measures) {
      if (plane !== this.plane || index !== this.index) continue
      const [x0, y0] = this.toScreen(...from)
      const [x1, y1] = this.toScreen(...to)
      context.lineCap = 'round'
      for (const [colour, width] of [
        [SHADOW, 4],
        [MEASURE, 2],
      ]) {
        context.strokeStyle = colour
        context.lineWidth = width
        context.beginPath()
        context.moveTo(x0, y0)
        context.lineTo(x1, y1)
        context.stroke()
        for (const [x, y] of [
          [x0, y0],
          [x1, y1],
        ]) {
          context.beginPath()
          context.arc(x, y, 3, 0, 2 * Math.PI)
          context.stroke()
        }
      }
      context.font = viewer.font
      this.written(context, this.lengthWords(from, to), (x0 + x1) / 2 + 8, (y0 + y1) / 2 - 10, 'left', MEASURE)
    }
  }

  lengthWords(from, to) {
    const [du, dv] = this.steps
    const length = Math.hypot((to[0] - from[0]) * du, (to[1] - from[1]) * dv)
    if (!this.viewer.knownSteps(this.plane)) return `${length.toFixed(1)} px`
    return length < 10 ? `${length.toFixed(2)} mm` : `${length.toFixed(1)} mm`
  }

  written(context, text, x, y, align, colour = INK) {
    context.textAlign = align
    context.textBaseline = 'middle'
    context.lineWidth = 3
    context.lineJoin = 'round'
    context.strokeStyle = SHADOW
    context.strokeText(text, x, y)
    context.fillStyle = colour
    context.fillText(text, x, y)
  }

  drawLetters(context) {
    const { letters, width, height } = this
    if (!letters) return
    context.font = this.viewer.font
    const aside = this.viewer.planes ? 11 : 0 // not on the lines of the cross
    this.written(context, letters.left, 8, height / 2 - aside, 'left')
    this.written(context, letters.right, width - 8, height / 2 - aside, 'right')
    this.written(context, letters.top, width / 2 + aside, 11, 'center')
    this.written(context, letters.bottom, width / 2 + aside, height - 11, 'center')
  }

  drawRuler(context) {
    const known = this.viewer.knownSteps(this.plane)
    const most = Math.min(RULER_PX, this.width * 0.4)
    const length = roundLength(most / this.scale)
    if (!known && length < 1) return
    const px = length * this.scale
    const [right, y] = [this.width - 14, this.height - 16]
    context.lineCap = 'butt'
    for (const [colour, width] of [
      [SHADOW, 5],
      [INK, 2],
    ]) {
      context.strokeStyle = colour
      context.lineWidth = width
      context.beginPath()
      context.moveTo(right - px, y - 5)
      context.lineTo(right - px, y)
      context.lineTo(right, y)
      context.lineTo(right, y - 5)
      context.stroke()
    }
    context.font = this.viewer.font
    const told = Number(length.toPrecision(1))
    this.written(context, `${told} ${known ? 'mm' : 'px'}`, right - px / 2, y - 11, 'center')
    this.element.dataset.ruler = `${told} ${known ? 'mm' : 'px'}`
    this.element.dataset.rulerPx = String(px)
  }

  get depth() {
    return depthOf(this.viewer.volume, this.plane)
  }
}

function lightness(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255)
  return 0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2
}
