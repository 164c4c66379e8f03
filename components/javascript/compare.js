// Two pictures of one scan, one under the other: a divider to be drawn across shows the one left of it, the other right of it.
// Both come by URL as for the viewer; the second may be several times larger. Arrow keys move the divider, up and down the slice.
//
// data: {id, before: {id, url, name}, after: {id, url, name}, change: {id, url, name} | null, height, slice, words}
//   change: a heat map (uint8) that is laid over the second picture where it is asked for.
import './compare.css'
import { whenGone } from './lasting.js'
import { make } from './viewer/controls.js'
import { pictureOf } from './viewer/overlay.js'
import { Refused, fetchVolume } from './viewer/volume.js'
import { Painter } from './viewer/window.js'

const comparisons = new WeakMap()

class Comparison {
  constructor(parent) {
    this.root = parent.querySelector('.compare')
    this.window = make('select', { aria: { label: 'Window' }, title: 'Which stored values become black and white' })
    this.window.onchange = () => this.draw()
    this.changed = make('button', { type: 'button', aria: { pressed: 'false' } }, 'Show what has changed')
    this.changed.onclick = () => {
      this.changed.setAttribute('aria-pressed', String(this.changed.getAttribute('aria-pressed') !== 'true'))
      this.draw()
    }
    this.canvas = make('canvas', {})
    this.names = [make('span', { class: 'name left' }), make('span', { class: 'name right' })]
    this.message = make('div', { class: 'message', aria: { live: 'polite' } })
    this.stage = make('div', { class: 'stage' }, this.canvas, ...this.names, this.message)
    this.divider = make('input', { type: 'range', min: '0', max: '1000', value: '500', aria: { label: 'Divider between before and after' } })
    this.divider.oninput = () => this.draw()
    this.slice = make('input', { type: 'range', min: '0', step: '1', aria: { label: 'Slice' } })
    this.slice.oninput = () => this.draw()
    this.count = make('output', { class: 'count' })
    this.slices = make('label', { class: 'row' }, 'Slice', this.slice, this.count)
    const bar = make('div', { class: 'bar' }, this.window, this.changed)
    this.root.replaceChildren(bar, this.stage, make('label', { class: 'row' }, 'Divider', this.divider), this.slices)
    const drag = (event) => {
      if (!event.buttons || !this.place) return
      const box = this.canvas.getBoundingClientRect()
      const [left, , width] = this.place
      this.divider.value = String(Math.round((1000 * (event.clientX - box.left - left)) / width))
      this.draw()
    }
    this.canvas.onpointerdown = (event) => {
      this.canvas.setPointerCapture(event.pointerId)
      drag(event)
    }
    this.canvas.onpointermove = drag
    this.sizes = new ResizeObserver(() => this.draw())
    this.sizes.observe(this.stage)
  }

  async use(data) {
    this.stage.style.setProperty('--height', `${data.height}px`)
    if (data.id === this.id) return
    this.id = data.id
    this.volumes = null
    this.root.dataset.ready = 'false'
    this.say('Loading both pictures ...')
    try {
      const parts = [data.before, data.after, data.change].filter(Boolean)
      const volumes = await Promise.all(parts.map((part) => fetchVolume(part.id, part.url)))
      if (data.id !== this.id) return
      this.begin(data, volumes)
    } catch (error) {
      this.say(error instanceof Refused ? error.message : 'The pictures could not be shown: there is not enough memory for them.')
    }
  }

  begin(data, volumes) {
    this.volumes = volumes
    this.painters = volumes.slice(0, 2).map((volume) => new Painter(volume))
    const [{ header, slices }] = volumes
    this.window.replaceChildren(...header.windows.map((w) => make('option', { value: w.name }, w.title)))
    this.window.hidden = !header.windows.length
    this.changed.hidden = volumes.length < 3
    this.slices.hidden = slices < 2
    this.slice.max = String(slices - 1)
    this.slice.value = String(data.slice ?? slices >> 1)
    this.names.forEach((name, side) => {
      name.textContent = [data.before, data.after][side].name
    })
    this.changeName = data.change?.name ?? ''
    this.message.replaceChildren()
    this.root.dataset.ready = 'true'
    this.draw()
  }

  say(words) {
    this.message.replaceChildren(make('p', {}, words))
  }

  cut(side, index, window) {
    const volume = this.volumes[side]
    const at = Math.min(volume.slices - 1, index)
    const image = new ImageData(volume.width, volume.height)
    this.painters[side].use(window, false)
    this.painters[side].fill(image, 0, at)
    const made = document.createElement('canvas')
    made.width = volume.width
    made.height = volume.height
    made.getContext('2d').putImageData(image, 0, 0)
    return made
  }

  draw() {
    if (!this.volumes) return
    const [before, after, change] = this.volumes
    const index = Number(this.slice.value)
    this.count.textContent = `${index + 1} / ${before.slices}`
    const window = before.header.windows.find((w) => w.name === this.window.value) ?? before.header.windows[0] ?? null
    const { clientWidth: width, clientHeight: height } = this.stage
    const ratio = globalThis.devicePixelRatio || 1
    this.canvas.width = Math.round(width * ratio)
    this.canvas.height = Math.round(height * ratio)
    const context = this.canvas.getContext('2d')
    context.scale(ratio, ratio)
    const [, y, x] = before.header.spacing_mm
    const aspect = (before.width * (x || 1)) / (before.height * (y || x || 1))
    const shown = Math.min(width, height * aspect)
    const place = [(width - shown) / 2, (height - shown / aspect) / 2, shown, shown / aspect]
    this.place = place
    const at = place[0] + (Number(this.divider.value) / 1000) * shown
    const part = (picture, from, to, smooth) => {
      context.save()
      context.beginPath()
      context.rect(from, 0, to - from, height)
      context.clip()
      context.imageSmoothingEnabled = smooth
      context.drawImage(picture, ...place)
      context.restore()
    }
    part(this.cut(0, index, window), 0, at, false)
    part(this.cut(1, index, window), at, width, false)
    const pressed = this.changed.getAttribute('aria-pressed') === 'true'
    if (change && pressed) {
      const overlay = { kind: 'heat', name: this.changeName, slices: null }
      const heat = pictureOf(overlay, change, after, 0, Math.min(index, change.slices - 1), new Set())
      if (heat) part(heat, at, width, true)
    }
    context.fillStyle = 'rgba(0,0,0,.6)'
    context.fillRect(at - 2, 0, 4, height)
    context.fillStyle = '#fff'
    context.fillRect(at - 1, 0, 2, height)
    context.beginPath()
    context.arc(at, height / 2, 9, 0, 2 * Math.PI)
    context.fill()
  }

  end() {
    this.sizes.disconnect()
  }
}

export default function ({ parentElement, data }) {
  let comparison = comparisons.get(parentElement)
  if (!comparison) {
    comparison = new Comparison(parentElement)
    comparisons.set(parentElement, comparison)
  }
  comparison.use(data)
  return whenGone(parentElement, () => {
    comparison.end()
    comparisons.delete(parentElement)
  })
}
