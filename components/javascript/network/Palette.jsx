// Every layer there is, by group, found by any word that describes it; clicked, or dragged with a pointer of any kind.
import React, { memo, useImperativeHandle, useMemo, useRef, useState } from 'react'
import { Icon, Sign, kindOf } from './icons.jsx'

const DRAG_PX = 5

export const Palette = memo(function Palette({ ref, palette, armed, onAdd, onDrag, onDrop, onDisarm, isOpen, onClose }) {
  const [words, setWords] = useState('')
  const [told, setTold] = useState(null)
  const field = useRef(null)
  const box = useRef(null)
  const dragged = useRef(false)
  useImperativeHandle(ref, () => ({
    search() {
      field.current?.focus()
      field.current?.select()
    },
  }))
  const groups = useMemo(() => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean)
    const found = new Map()
    for (const part of palette) {
      const text = `${part.name} ${part.title} ${part.group} ${part.help} ${part.finds}`.toLowerCase()
      if (!wanted.every((w) => text.includes(w))) continue
      if (!found.has(part.group)) found.set(part.group, [])
      found.get(part.group).push(part)
    }
    // What is called so comes before what only does so.
    const lead = wanted[0]
    if (lead) {
      const rank = (part) => (part.title.toLowerCase().startsWith(lead) || part.name.startsWith(lead) ? 0 : part.title.toLowerCase().includes(lead) ? 1 : 2)
      for (const parts of found.values()) parts.sort((a, b) => rank(a) - rank(b))
      return [...found].sort(([, a], [, b]) => rank(a[0]) - rank(b[0]))
    }
    return [...found]
  }, [palette, words])

  const press = (event, part) => {
    if (event.button) return
    dragged.current = false
    const [x0, y0] = [event.clientX, event.clientY]
    const button = event.currentTarget
    const id = event.pointerId
    const move = (now) => {
      if (now.pointerId !== id) return
      if (!dragged.current && Math.hypot(now.clientX - x0, now.clientY - y0) > DRAG_PX) {
        dragged.current = true
        button.setPointerCapture(id)
      }
      if (dragged.current) onDrag(part, now)
    }
    const end = (now) => {
      if (now.pointerId !== id) return
      window.removeEventListener('pointermove', move, true)
      window.removeEventListener('pointerup', end, true)
      window.removeEventListener('pointercancel', end, true)
      if (dragged.current) onDrop(now.type === 'pointerup' ? part : null, now)
    }
    window.addEventListener('pointermove', move, true)
    window.addEventListener('pointerup', end, true)
    window.addEventListener('pointercancel', end, true)
  }

  const walk = (event) => {
    if (!['ArrowDown', 'ArrowUp', 'Enter', 'Escape', 'Home', 'End'].includes(event.key)) return
    const items = [...box.current.querySelectorAll('.nw-item')]
    const root = box.current.getRootNode()
    const at = items.indexOf(root.activeElement)
    if (event.key === 'Enter') {
      if (at < 0 && items.length) {
        event.preventDefault()
        items[0].click()
      }
      return
    }
    if (event.key === 'Escape') {
      if (words) setWords('')
      else onDisarm()
      event.preventDefault()
      return
    }
    event.preventDefault()
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key]
    if (to < 0) field.current.focus()
    else items[Math.min(to, items.length - 1)]?.focus()
  }

  return (
    <div className={`nw-palette${isOpen ? ' open' : ''}`} ref={box} role="region" aria-label="Layers to add" onKeyDown={walk}>
      <div className="nw-search">
        <input
          ref={field}
          type="search"
          value={words}
          placeholder="Search: relu, shrink …"
          aria-label="Search layers by name or by what they do"
          onChange={(event) => setWords(event.target.value)}
        />
        <button type="button" className="nw-shut" onClick={onClose} aria-label="Hide the layers">
          <Sign name="close" />
        </button>
      </div>
      {armed && (
        <div className="nw-armed">
          Pick what goes into the wire.
          <button type="button" onClick={onDisarm}>
            Cancel
          </button>
        </div>
      )}
      <div className="nw-groups">
        {groups.map(([group, parts]) => {
          const { hue, path } = kindOf(group)
          return (
            <div key={group} role="group" aria-label={group}>
              <div className="nw-group" aria-hidden="true">
                {group}
              </div>
              {parts.map((part) => (
                <button
                  key={part.name}
                  type="button"
                  className="nw-item"
                  data-layer={part.name}
                  style={{ '--hue': hue }}
                  title={part.help}
                  aria-label={`Add ${part.title}`}
                  onPointerDown={(event) => press(event, part)}
                  onPointerEnter={() => setTold(part)}
                  onFocus={() => setTold(part)}
                  onClick={() => {
                    if (dragged.current) dragged.current = false
                    else onAdd(part)
                  }}
                >
                  <span className="nw-kind">
                    <Icon path={path} />
                  </span>
                  <span className="nw-label">{part.title}</span>
                </button>
              ))}
            </div>
          )
        })}
        {!groups.length && <p className="nw-none">No layer is found by “{words}”. Try activation, pooling, shrink or norm.</p>}
      </div>
      <div className="nw-told" aria-hidden="true">
        {told ? (
          <>
            <b>{told.title}</b> {told.help}
          </>
        ) : (
          'Click to add after the chosen layer, or drag onto the canvas or onto a wire.'
        )}
      </div>
    </div>
  )
})
