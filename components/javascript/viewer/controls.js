// The bar above the scan, the slider and the legend below: plain elements, wired to the viewer.

const SIGNS = {
  invert: 'M8 2.2a5.8 5.8 0 1 0 .01 0M8 2.2v11.6M8 4.5h3.6M8 7h5.4M8 9.5h5.2M8 12h3',
  window: 'M8 5.2a2.8 2.8 0 1 0 .01 0M8 1.5v1.4M8 13.1v1.4M1.5 8h1.4M13.1 8h1.4M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1',
  pan: 'M8 1.8v12.4M1.8 8h12.4M6.2 3.6 8 1.8l1.8 1.8M6.2 12.4 8 14.2l1.8-1.8M3.6 6.2 1.8 8l1.8 1.8M12.4 6.2 14.2 8l-1.8 1.8',
  measure: 'M1.8 11.2 11.2 1.8l3 3-9.4 9.4zM4.5 8.5l1.5 1.5M7 6l1.5 1.5M9.5 3.5 11 5',
  minus: 'M3 8h10',
  plus: 'M8 3v10M3 8h10',
  fit: 'M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10',
  planes: 'M2.5 2.5h5v11h-5zM9 2.5h4.5V7H9zM9 9h4.5v4.5H9z',
  full: 'M9.5 2.5h4v4M13.5 2.5 9 7M6.5 13.5h-4v-4M2.5 13.5 7 9',
  clear: 'M4 4l8 8M12 4l-8 8',
}

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

export function make(tag, properties = {}, ...children) {
  const { class: name, aria, data, ...rest } = properties
  const element = Object.assign(document.createElement(tag), rest)
  if (name) element.className = name
  for (const [key, value] of Object.entries(aria ?? {})) element.setAttribute(key === 'role' ? key : `aria-${key}`, value)
  Object.assign(element.dataset, data)
  element.append(...children)
  return element
}

function button(name, label, keys, press) {
  const element = make(
    'button',
    { type: 'button', title: keys ? `${label} (${keys})` : label, aria: { label }, data: { act: name } },
    sign(name),
  )
  element.onclick = press
  return element
}

const rounded = (value, span) => (span >= 20 ? String(Math.round(value)) : String(Number(value.toPrecision(3))))

export class Controls {
  constructor(viewer) {
    this.viewer = viewer
    const view = viewer
    this.window = make('select', { aria: { label: 'Window' }, title: 'Which stored values become black and white' })
    this.window.onchange = () => view.choose(this.window.value)
    const number = (label, set) => {
      const input = make('input', { type: 'number', step: 'any', aria: { label } })
      input.onchange = () => Number.isFinite(input.valueAsNumber) && set(input.valueAsNumber)
      return input
    }
    this.level = number('Level of the window', (v) => view.setWindow(v, view.window.width))
    this.width = number('Width of the window', (v) => v > 0 && view.setWindow(view.window.center, v))
    this.numbers = make('span', { class: 'numbers' }, make('label', {}, 'L', this.level), make('label', {}, 'W', this.width))
    this.invert = button('invert', 'Invert black and white', 'I', () => view.invert())
    this.tools = {
      window: button('window', 'Drag for brightness and contrast', 'B', () => view.take('window')),
      pan: button('pan', 'Drag to move', 'V', () => view.take('pan')),
      measure: button('measure', 'Measure: two clicks', 'M', () => view.take('measure')),
    }
    this.clear = button('clear', 'Remove the measurements', 'Esc', () => view.clearMeasures())
    this.planes = button('planes', 'Three planes', '3', () => view.togglePlanes())
    this.full = button('full', 'Whole screen', 'F', () => view.toggleFull())
    const group = (...parts) => make('span', { class: 'group' }, ...parts)
    this.greys = group(this.window, this.numbers)
    this.bar = make(
      'div',
      { class: 'bar', aria: { role: 'toolbar', label: 'Scan viewer' } },
      this.greys,
      group(this.tools.window, this.tools.pan, this.tools.measure, this.clear),
      group(
        button('minus', 'Smaller', '-', () => view.zoomBy(1 / 1.25)),
        button('fit', 'Whole picture', '0', () => view.fit()),
        button('plus', 'Larger', '+', () => view.zoomBy(1.25)),
      ),
      group(this.invert, this.planes, this.full),
    )
    this.slider = make('input', { type: 'range', min: '0', step: '1', aria: { label: 'Slice' } })
    this.slider.oninput = () => view.goTo(0, Number(this.slider.value))
    this.count = make('output', { class: 'count' })
    this.marks = make('div', { class: 'marks', aria: { hidden: 'true' } })
    this.slices = make('div', { class: 'slices' }, make('div', { class: 'track' }, this.slider, this.marks), this.count)
    this.told = make('p', { class: 'told' })
    this.opacity = make('input', { type: 'range', min: '0', max: '1', step: '0.05', aria: { label: 'Opacity of masks and heat maps' } })
    this.opacity.oninput = () => view.setOpacity(Number(this.opacity.value))
    this.chips = make('div', { class: 'chips' })
    this.strength = make('label', { class: 'strength' }, 'Opacity', this.opacity)
    this.legend = make('div', { class: 'legend' }, this.chips, this.strength)
  }

  // A scan has come (or another one): which windows, whether slices.
  begin() {
    const { viewer } = this
    const { header, slices } = viewer.volume
    this.window.replaceChildren(
      ...header.windows.map((w) => make('option', { value: w.name }, w.title)),
      make('option', { value: 'own' }, 'By hand'),
    )
    this.greys.hidden = viewer.painter.colour
    this.tools.window.hidden = viewer.painter.colour
    this.slices.hidden = slices < 2
    this.slider.max = String(slices - 1)
    this.planes.hidden = slices < 2
    this.full.hidden = !document.fullscreenEnabled
    this.update()
  }

  update() {
    const { viewer } = this
    const { window: shown, volume } = viewer
    if (shown) {
      this.window.value = viewer.windowName
      const unit = volume.header.unit ? ` (${volume.header.unit})` : ''
      if (document.activeElement !== this.level) this.level.value = rounded(shown.center, shown.width)
      this.width.value = rounded(shown.width, shown.width)
      this.numbers.title = `Level and width${unit}`
    }
    for (const [name, element] of Object.entries(this.tools)) element.setAttribute('aria-pressed', String(viewer.tool === name))
    this.invert.setAttribute('aria-pressed', String(viewer.inverted))
    this.planes.setAttribute('aria-pressed', String(viewer.planes))
    this.full.setAttribute('aria-pressed', String(Boolean(viewer.isFull)))
    this.clear.hidden = !viewer.measures.length
    this.slider.value = String(viewer.place[0])
    this.slider.setAttribute('aria-valuetext', `${viewer.place[0] + 1} of ${volume.slices}`)
    this.count.textContent = `${viewer.place[0] + 1} / ${volume.slices}`
    this.opacity.value = String(viewer.opacity)
  }

  // Names and colours of what lies over the scan; a press hides one.
  explain(entries, withOpacity) {
    const { viewer } = this
    this.legend.hidden = !entries.length
    this.strength.hidden = !withOpacity
    this.chips.replaceChildren(
      ...entries.map(({ name, colour, count, pressed, press }) => {
        const swatch = make('span', { class: 'swatch' })
        swatch.style.background = colour
        const chip = make(
          'button',
          { type: 'button', class: 'chip', title: `Show or hide ${name}`, aria: { pressed: String(pressed) } },
          swatch,
          count > 1 ? `${name} · ${count}` : name,
        )
        chip.onclick = () => {
          press()
          viewer.explain()
          viewer.draw()
        }
        return chip
      }),
    )
  }

  // Marks along the slider: the slices on which there is something.
  mark(slices, total) {
    this.marks.replaceChildren(
      ...slices.map((s) => {
        const tick = make('i')
        tick.style.left = `${total > 1 ? (100 * s) / (total - 1) : 50}%`
        return tick
      }),
    )
  }
}
