// The film of a run: a few scans, and what the network said of each after every epoch, with a slider and a play button.
//
// data: {base, key, run, epochs: [n], steps: [n], best: n | null, classes: [name], active, words}
//   base: address of the film's folder; key: mark that lets this page read it. frame-<epoch>.json and scan-<row>.json lie
//   there with the pictures they name; what they hold is told in builder/film.py.
// Frames are fetched when they are looked at and kept; a new epoch is shown at once while the slider stands at the end.
import './film.css'
import { whenGone } from './lasting.js'
import { make } from './viewer/controls.js'

const SIGNS = { play: 'M4 2.5v11l9-5.5z', pause: 'M4 2.5h3v11H4zM9.5 2.5h3v11h-3z' }
const PLAY_MS = 550
const KEPT = 400
const SHARED = 0.5 // as the scores count: half of a box and its lesion must be shared
const films = new WeakMap()

function sign(name) {
  const space = 'http://www.w3.org/2000/svg'
  const svg = document.createElementNS(space, 'svg')
  svg.setAttribute('viewBox', '0 0 16 16')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS(space, 'path')
  path.setAttribute('d', SIGNS[name])
  svg.append(path)
  return svg
}

class Film {
  constructor(parent) {
    this.root = parent.querySelector('.film')
    this.frames = new Map()
    this.scans = new Map()
    this.pictures = new Map()
    this.tiles = new Map()
    this.epochs = []
    this.at = 0
    this.play = make('button', { type: 'button', class: 'play', aria: { label: 'Play' } }, sign('play'))
    this.play.onclick = () => this.toggle()
    this.slider = make('input', { type: 'range', min: '0', step: '1', aria: { label: 'Epoch' } })
    this.slider.oninput = () => {
      this.stop()
      this.go(Number(this.slider.value))
    }
    this.label = make('output', { class: 'label' })
    this.latest = make('button', { type: 'button', class: 'latest' }, 'Newest')
    this.latest.onclick = () => this.go(this.epochs.length - 1)
    this.star = make('button', { type: 'button', class: 'best' }, 'Best')
    this.star.onclick = () => this.go(this.epochs.indexOf(this.data.best))
    this.grid = make('div', { class: 'grid' })
    this.root.replaceChildren(
      make('div', { class: 'bar' }, this.play, this.slider, this.label, this.star, this.latest),
      this.grid,
    )
  }

  use(data) {
    const ended = this.at >= this.epochs.length - 1
    const stamp = JSON.stringify([data.run, data.key])
    if (stamp !== this.stamp) {
      this.stamp = stamp
      for (const known of [this.frames, this.scans, this.pictures, this.tiles]) known.clear()
      this.grid.replaceChildren()
    }
    this.data = data
    this.epochs = data.epochs
    this.slider.max = String(Math.max(0, this.epochs.length - 1))
    this.star.hidden = !this.epochs.includes(data.best)
    this.go(ended ? this.epochs.length - 1 : Math.min(this.at, this.epochs.length - 1))
  }

  toggle() {
    if (this.timer) return this.stop()
    if (this.at >= this.epochs.length - 1) this.go(0)
    this.play.replaceChildren(sign('pause'))
    this.play.setAttribute('aria-label', 'Pause')
    this.timer = setInterval(() => {
      if (this.busy) return // on a slow line rather slower than with holes
      if (this.at >= this.epochs.length - 1) return this.stop()
      this.go(this.at + 1)
    }, PLAY_MS)
  }

  stop() {
    clearInterval(this.timer)
    this.timer = null
    this.play.replaceChildren(sign('play'))
    this.play.setAttribute('aria-label', 'Play')
  }

  address(name, stamp) {
    return `${this.data.base}/${name}?key=${this.data.key}&v=${stamp}`
  }

  async json(known, name, stamp) {
    const id = `${name}@${stamp}`
    if (!known.has(id)) {
      if (known.size > KEPT) known.clear()
      const coming = fetch(this.address(name, stamp)).then((answer) => (answer.ok ? answer.json() : null))
      known.set(id, coming.catch(() => null))
      if (!(await known.get(id))) known.delete(id) // asked again the next time
    }
    return known.get(id) ?? null
  }

  picture(name, stamp) {
    const id = `${name}@${stamp}`
    if (!this.pictures.has(id)) {
      if (this.pictures.size > KEPT) this.pictures.clear()
      const coming = new Promise((done) => {
        const image = new Image()
        image.onload = () => done(image)
        image.onerror = () => done(null)
        image.src = this.address(name, stamp)
      })
      this.pictures.set(id, coming)
    }
    return this.pictures.get(id)
  }

  async go(place) {
    this.at = Math.max(0, place)
    const [epoch, step] = [this.epochs[this.at], this.data.steps[this.at]]
    this.slider.value = String(this.at)
    this.latest.hidden = this.at >= this.epochs.length - 1
    this.label.textContent = epoch === undefined ? '' : `Epoch ${epoch}${epoch === this.data.best ? ' ★' : ''}`
    this.slider.setAttribute('aria-valuetext', this.label.textContent)
    if (epoch === undefined) return
    const asked = (this.asked = `${this.stamp}-${epoch}-${step}-${this.data.best}`)
    if (asked === this.shown) return
    this.busy = true
    const frame = await this.json(this.frames, `frame-${String(epoch).padStart(5, '0')}.json`, step)
    const scans = frame ? await Promise.all(frame.scans.map((said) => this.json(this.scans, `scan-${said.scan}.json`, 0))) : []
    this.busy = false
    if (asked !== this.asked || !frame) return
    this.shown = asked
    const present = new Set()
    frame.scans.forEach((said, k) => {
      if (!scans[k]) return
      present.add(said.scan)
      this.tile(said.scan).show(scans[k], said, step)
    })
    for (const [row, tile] of this.tiles) tile.element.hidden = !present.has(row)
    this.root.dataset.epoch = epoch
    if (this.epochs[this.at + 1] !== undefined) {
      this.json(this.frames, `frame-${String(this.epochs[this.at + 1]).padStart(5, '0')}.json`, this.data.steps[this.at + 1])
    }
  }

  tile(row) {
    if (!this.tiles.has(row)) {
      const made = new Tile(this)
      this.tiles.set(row, made)
      this.grid.append(made.element)
    }
    return this.tiles.get(row)
  }

  end() {
    this.stop()
  }
}

class Tile {
  constructor(film) {
    this.film = film
    this.canvas = make('canvas', { role: 'img' })
    this.truth = make('span', { class: 'truth' })
    this.words = make('div', { class: 'words' })
    this.bars = make('div', { class: 'bars' })
    this.element = make('figure', {}, make('div', { class: 'stage' }, this.canvas, this.truth), make('figcaption', {}, this.words, this.bars))
  }

  async show(scan, said, step) {
    const { film } = this
    const { classes } = film.data
    const name = (k) => classes[k] ?? `class ${k + 1}`
    const turn = (this.turn = {})
    const [seen, answer, outline, known] = await Promise.all([
      film.picture(scan.seen, 0),
      said.picture ? film.picture(said.picture, step) : null,
      said.outline ? film.picture(said.outline, step) : null,
      scan.known.outline ? film.picture(scan.known.outline, 0) : null,
    ])
    if (turn !== this.turn || !seen) return
    const style = getComputedStyle(film.root)
    const colours = { said: style.getPropertyValue('--said').trim(), known: style.getPropertyValue('--known').trim() }
    this.paint(answer ?? seen, outline, known, said.boxes, scan.known.boxes, colours)
    const truth = scan.known.classes.map(name).join(', ')
    this.truth.textContent = truth
    this.truth.hidden = !truth
    this.bars.replaceChildren()
    this.words.textContent = ''
    if (said.chances) {
      const top = said.chances.indexOf(Math.max(...said.chances))
      const right = scan.known.classes.includes(top)
      const order = said.chances.map((chance, k) => [chance, k]).sort((a, b) => b[0] - a[0]).slice(0, 4)
      for (const [chance, k] of order) {
        const bar = make('span', { class: scan.known.classes.includes(k) ? 'bar-fill right' : 'bar-fill' })
        bar.style.width = `${Math.round(100 * chance)}%`
        this.bars.append(
          make('div', { class: 'bar-row' }, make('span', { class: 'name' }, name(k)), make('span', { class: 'track' }, bar), make('span', { class: 'number' }, `${Math.round(100 * chance)} %`)),
        )
      }
      if (truth) this.words.textContent = right ? `Says ${name(top)}: right` : `Says ${name(top)}: it is ${truth}`
    } else if (said.boxes) {
      const marked = scan.known.boxes ?? []
      const met = marked.filter((lesion) => said.boxes.some((box) => sharedBy(box, lesion) >= SHARED)).length
      const boxes = said.boxes.length === 1 ? '1 box' : `${said.boxes.length || 'no'} boxes`
      this.words.textContent = marked.length ? `Meets ${met} of ${marked.length} marked · ${boxes}` : `Nothing marked · ${boxes}`
    } else if (said.picture) {
      this.words.textContent = 'Restored'
    }
    if (said.outline && known) this.words.textContent = [this.words.textContent, `overlap ${overlapOf(outline, known)}`].filter(Boolean).join(' · ')
    this.canvas.setAttribute('aria-label', `${truth || 'Scan'}. ${this.words.textContent}`)
  }

  paint(picture, outline, known, boxes, marked, colours) {
    const ratio = globalThis.devicePixelRatio || 1
    const size = Math.round(260 * ratio)
    const share = Math.min(size / picture.width, size / picture.height)
    const [width, height] = [Math.round(picture.width * share), Math.round(picture.height * share)]
    this.canvas.width = width
    this.canvas.height = height
    const context = this.canvas.getContext('2d')
    context.imageSmoothingEnabled = picture.width >= 128
    context.drawImage(picture, 0, 0, width, height)
    context.imageSmoothingEnabled = false
    if (known) context.drawImage(edgeOf(known, colours.known, 0), 0, 0, width, height)
    if (outline) context.drawImage(edgeOf(outline, colours.said, 60), 0, 0, width, height)
    const draw = (rows, colour, dash) => {
      context.strokeStyle = colour
      context.lineWidth = 2 * ratio
      context.setLineDash(dash)
      for (const [x0, y0, x1, y1] of rows ?? []) context.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
    }
    draw(marked, colours.known, [4 * ratio, 3 * ratio])
    draw(boxes, colours.said, [])
  }
}

// Intersection over union of two boxes (x0, y0, x1, y1, class, ...) of one class; 0 for different classes.
function sharedBy(one, two) {
  if (one[4] !== two[4]) return 0
  const both = Math.max(0, Math.min(one[2], two[2]) - Math.max(one[0], two[0])) * Math.max(0, Math.min(one[3], two[3]) - Math.max(one[1], two[1]))
  const size = (box) => (box[2] - box[0]) * (box[3] - box[1])
  return both / (size(one) + size(two) - both)
}

function pixelsOf(picture) {
  const canvas = document.createElement('canvas')
  canvas.width = picture.width
  canvas.height = picture.height
  const context = canvas.getContext('2d', { willReadFrequently: true })
  context.drawImage(picture, 0, 0)
  return [canvas, context, context.getImageData(0, 0, picture.width, picture.height)]
}

// A black and white picture as a coloured edge, with its inside filled by `inside` (0..255).
function edgeOf(picture, colour, inside) {
  const [canvas, context, pixels] = pixelsOf(picture)
  const { width, height, data } = pixels
  const red = Uint8Array.from({ length: width * height }, (_, k) => data[4 * k] > 127)
  const [r, g, b] = rgbOf(colour)
  for (let k = 0; k < red.length; k++) {
    const x = k % width
    const border = red[k] && (x === 0 || x === width - 1 || k < width || k >= width * (height - 1) || !red[k - 1] || !red[k + 1] || !red[k - width] || !red[k + width])
    data.set([r, g, b, border ? 255 : red[k] ? inside : 0], 4 * k)
  }
  context.putImageData(pixels, 0, 0)
  return canvas
}

function rgbOf(colour) {
  const whole = /^#([0-9a-f]{6})$/i.exec(colour)
  return whole ? [0, 2, 4].map((k) => parseInt(whole[1].slice(k, k + 2), 16)) : [255, 200, 0]
}

// Dice of two black and white pictures of one size, in words.
function overlapOf(one, two) {
  if (!one || !two || one.width !== two.width || one.height !== two.height) return '–'
  const [a, b] = [pixelsOf(one)[2].data, pixelsOf(two)[2].data]
  let [both, all] = [0, 0]
  for (let k = 0; k < a.length; k += 4) {
    both += a[k] > 127 && b[k] > 127 ? 1 : 0
    all += (a[k] > 127 ? 1 : 0) + (b[k] > 127 ? 1 : 0)
  }
  return all ? `${Math.round((200 * both) / all)} %` : 'nothing outlined'
}

export default function ({ parentElement, data }) {
  let film = films.get(parentElement)
  if (!film) {
    film = new Film(parentElement)
    films.set(parentElement, film)
  }
  film.use(data)
  return whenGone(parentElement, () => {
    film.end()
    films.delete(parentElement)
  })
}
