// What lies on the desk: the network as Python last told it, with the edits that Python has not yet answered on top.
//
// Each edit has a number. All unanswered ones are sent together, in one state per gesture; Python takes each once, in
// order, and tells the number it has reached. So a burst of gestures loses nothing, and what a form or another tab
// changed meanwhile comes in underneath.
import { Refused, edit, freshId } from './graph.js'

const AGAIN_MS = 5000
const KEPT = 80 // networks of earlier steps, so that undo can be painted before Python answers

export class Desk {
  constructor() {
    this.mount = `m${Math.random().toString(36).slice(2, 12)}`
    this.number = 0
    this.pending = [] // [[number, edit]]
    this.used = new Set()
    this.steps = new Map() // number of a step -> {graph, steps}
    this.next = new Map() // number of a step -> the one that a redo brings
    this.listeners = new Set()
    this.selected = null
    this.data = null
    this.known = 0 // number of the last edit about which Python has told whether its ids were given anew
    this.heardRefusal = 0
    this.asked = 0 // messages until now
  }

  subscribe = (listener) => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  snapshot = () => this.seen

  // New data from Python.
  receive(data, tell) {
    this.tell = tell
    if (this.data?.draft !== data.draft) {
      this.steps.clear()
      this.next.clear()
      this.pending = []
      this.selected = null
    }
    const first = !this.data || this.data.draft !== data.draft
    this.data = data
    const words = JSON.stringify(data.palette)
    if (this.paletteWords !== words) {
      this.paletteWords = words
      this.palette = data.palette
      this.catalog = Object.fromEntries(data.palette.map((p) => [p.name, p]))
    }
    const graph = shared(this.base?.graph, { ...data.graph, layouts: data.layouts })
    this.remember(data.steps, graph)
    this.base = { graph, steps: data.steps }
    if (data.mount === this.mount) {
      this.pending = this.pending.filter(([number]) => number > data.heard)
      // Another tab had taken an id: what was made before this was heard means our layer, under its new id.
      for (const [number, old, id] of data.names ?? [])
        if (number > this.known) {
          this.pending = this.pending.map(([n, op]) => [n, renamed(op, old, id)])
          if (this.selected === old) this.selected = id
        }
      this.known = Math.max(this.known, data.heard)
      for (const [number, words] of data.refused ?? [])
        if (number > this.heardRefusal) {
          this.heardRefusal = number
          this.onRefused?.(words)
        }
    }
    // Python opens a layer by itself (a repair, an undo, the list): only while nothing of ours is on its way.
    // An answer to what was told before the last message knows an older choice: it must not come back.
    const older = data.mount === this.mount && (data.asked ?? 0) < this.asked
    const waits = this.pending.length || this.told !== this.selected || older
    if (first || (!waits && data.selected !== this.selected)) {
      this.selected = data.selected
      this.told = data.selected
    }
    this.fold()
  }

  remember(steps, graph) {
    if (steps.before !== null) this.next.set(steps.before, steps.now)
    this.next.set(steps.now, steps.after)
    this.steps.delete(steps.now)
    this.steps.set(steps.now, { graph, steps })
    if (this.steps.size > KEPT) this.steps.delete(this.steps.keys().next().value)
  }

  // What is seen: the last answer with the pending edits on it. An edit that cannot be made any more is left to Python.
  fold() {
    let { graph, steps } = this.base
    const before = []
    const after = []
    for (const [, op] of this.pending) {
      if (op.op === 'undo' || op.op === 'redo') {
        const [from, to] = op.op === 'undo' ? [before, after] : [after, before]
        const known = from.pop() ?? this.steps.get(op.op === 'undo' ? steps?.before : this.next.get(steps?.now))
        if (!known) continue // painted when Python answers
        to.push({ graph, steps })
        graph = known.graph
        steps = known.steps
        continue
      }
      try {
        const next = edit(graph, op, this.catalog)
        before.push({ graph, steps })
        after.length = 0
        graph = next
        steps = null
      } catch (error) {
        if (!(error instanceof Refused)) throw error
      }
    }
    const can = {
      undo: before.length ? 'last change' : (steps ?? this.base.steps).undo,
      redo: after.length ? 'last change' : steps === this.base.steps ? steps.redo : this.next.get(steps?.now) ? 'last change' : '',
    }
    const alive = this.selected === 'input' || graph.nodes.some((n) => n.id === this.selected)
    this.seen = { graph, can, data: this.data, selected: alive ? this.selected : null, waits: this.pending.length > 0 }
    for (const listener of this.listeners) listener()
  }

  // The canvas is gone from the page.
  close() {
    clearTimeout(this.timer)
    clearTimeout(this.again)
  }

  get graph() {
    return this.seen.graph
  }

  fresh(name) {
    return freshId(this.graph, name, this.used)
  }

  // Makes an edit: painted now, told once this gesture is through. Returns "" or why it cannot be, in words.
  make(op, selected = undefined) {
    if (!['undo', 'redo', 'repair', 'begin'].includes(op.op)) {
      try {
        edit(this.graph, op, this.catalog)
      } catch (error) {
        if (error instanceof Refused) return error.message
        throw error
      }
    }
    this.pending = [...this.pending, [(this.number += 1), op]]
    if (selected !== undefined) this.selected = selected
    this.fold()
    this.send()
    return ''
  }

  select(id, rest_ms = 0) {
    if (id === this.selected) return
    this.selected = id
    this.fold()
    this.send(rest_ms)
  }

  // Asks Python for the newest network: another tab may have changed it.
  refresh() {
    this.send()
  }

  send(rest_ms = 0) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.flush(), rest_ms) // one message a gesture
  }

  flush(again_ms = AGAIN_MS) {
    clearTimeout(this.timer)
    clearTimeout(this.again)
    // An answer that does not come (a connection that broke, a run that another one cut short) is asked for again.
    this.again = setTimeout(() => this.pending.length && this.flush(2 * again_ms), again_ms)
    this.told = this.selected
    this.asked += 1
    this.tell('edits', { mount: this.mount, edits: this.pending, selected: this.selected, known: this.known, asked: this.asked })
  }
}

const PLAIN = ['op', 'name', 'words', 'params', 'shown'] // hold no ids; as in wiring.renamed

// An edit with one id changed, wherever it stands: in wires ("id:2"), as a key of places, in lists.
function renamed(told, old, id) {
  if (typeof told === 'string') {
    const [head, ...tap] = told.split(':')
    return head === old ? [id, ...tap].join(':') : told
  }
  if (Array.isArray(told)) return told.map((item) => renamed(item, old, id))
  if (told && typeof told === 'object')
    return Object.fromEntries(
      Object.entries(told).map(([key, item]) => [key === old ? id : key, PLAIN.includes(key) ? item : renamed(item, old, id)]),
    )
  return told
}

// `now` with the layers that are as they were being the same objects, so that nothing is drawn anew for them.
function shared(before, now) {
  if (!before) return now
  const old = new Map(before.nodes.map((n) => [n.id, n]))
  const nodes = now.nodes.map((n) => (old.has(n.id) && JSON.stringify(old.get(n.id)) === JSON.stringify(n) ? old.get(n.id) : n))
  return { ...now, nodes }
}
