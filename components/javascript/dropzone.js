// Files, folders or a zip file from the browser, each sent by its own PUT straight to disk: nothing goes through Streamlit.
//
// data: {url, label, help, most_bytes, folders, several}; a new url (ticket) starts an empty list.
// state "report": {url, done, bytes, failed: [{name, reason}], seq}, sent once when nothing is on its way any more.
import './dropzone.css'
import { whenGone } from './lasting.js'

const AT_ONCE = 3
const SHOWN = 6
const TRIES = 2
const MOST_FAILED = 100
const zones = new WeakMap()

function words(bytes) {
  let unit = 'bytes'
  for (const next of ['kB', 'MB', 'GB']) {
    if (bytes < 1000) break
    bytes /= 1000
    unit = next
  }
  return `${unit === 'bytes' || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${unit}`
}

const files = (count) => (count === 1 ? '1 file' : `${count.toLocaleString('en')} files`)

// What was dropped, folders included, as [{file, name}] with the path inside the dropped folder as name.
async function unfold(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean)
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }))
  const found = []
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject))
      found.push({ file, name: path + entry.name })
    } else {
      const reader = entry.createReader()
      for (;;) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))
        if (!some.length) break
        for (const inner of some) await walk(inner, `${path}${entry.name}/`)
      }
    }
  }
  for (const entry of entries) await walk(entry, '')
  return found
}

class Zone {
  constructor(parent) {
    const find = (selector) => parent.querySelector(selector)
    this.box = find('.zone')
    this.lead = find('.lead')
    this.help = find('.help')
    this.state = find('.state')
    this.list = find('ul')
    this.pick = find('.pick')
    this.pickFolder = find('.pick-folder')
    this.again = find('.again')
    this.cancel = find('.cancel')
    this.input = find('input.files')
    this.inputFolder = find('input.folder')
    this.seq = 0
    this.pick.onclick = () => this.input.click()
    this.pickFolder.onclick = () => this.inputFolder.click()
    this.again.onclick = () => this.retry()
    this.cancel.onclick = () => this.stop()
    for (const input of [this.input, this.inputFolder]) {
      input.onchange = () => {
        this.add([...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })))
        input.value = ''
      }
    }
    this.box.ondragover = (event) => {
      event.preventDefault()
      this.box.classList.add('over')
    }
    this.box.ondragleave = () => this.box.classList.remove('over')
    this.box.ondrop = async (event) => {
      event.preventDefault()
      this.box.classList.remove('over')
      this.add(await unfold(event.dataTransfer))
    }
    this.leave = (event) => this.isBusy() && event.preventDefault()
    window.addEventListener('beforeunload', this.leave)
  }

  use(data, tell) {
    this.data = data
    this.tell = tell
    this.lead.textContent = data.label
    this.help.textContent = data.help
    this.input.multiple = data.several
    this.pickFolder.hidden = !data.folders
    this.pick.textContent = data.several ? 'Choose files' : 'Choose a file'
    this.pick.disabled = this.pickFolder.disabled = false // they are there before we are
    if (data.url !== this.url) {
      this.stop(false)
      this.url = data.url
      this.items = []
      this.show()
    }
  }

  isBusy() {
    return this.items.some((item) => item.state === 'waiting' || item.state === 'sending')
  }

  add(came) {
    if (!this.data.several) came = came.slice(0, 1)
    for (const { file, name } of came) {
      const item = { file, name, sent: 0, tries: 0, state: 'waiting', reason: '' }
      if (file.size > this.data.most_bytes) {
        item.state = 'failed'
        item.reason = `It has ${words(file.size)}; one file may have at most ${words(this.data.most_bytes)}.`
      }
      this.items.push(item)
    }
    if (came.length) this.next(true)
  }

  next(told = false) {
    const sending = this.items.filter((item) => item.state === 'sending').length
    for (const item of this.items.filter((i) => i.state === 'waiting').slice(0, AT_ONCE - sending)) this.send(item)
    this.show()
    if (!this.isBusy() && (told || this.unsaid)) this.report()
  }

  send(item) {
    item.state = 'sending'
    item.sent = 0
    item.tries += 1
    this.unsaid = true
    const request = new XMLHttpRequest()
    item.request = request
    request.open('PUT', this.url)
    request.setRequestHeader('X-Scanloom-Name', encodeURIComponent(item.name))
    request.upload.onprogress = (event) => {
      item.sent = event.loaded
      this.show()
    }
    const settle = (state, reason) => {
      item.state = state
      item.reason = reason
      item.request = null
      if (state === 'done') item.file = null
      this.next()
    }
    request.onload = () => {
      if (request.status === 201) return settle('done', '')
      let reason = `The server answered ${request.status}.`
      try {
        reason = JSON.parse(request.responseText).error || reason
      } catch {
        // not our JSON: the status says it
      }
      settle('failed', reason)
    }
    request.onerror = () => settle(item.tries < TRIES ? 'waiting' : 'failed', 'The connection broke off.')
    request.onabort = () => settle('failed', 'Cancelled.')
    item.size = item.file.size
    request.send(item.file)
  }

  retry() {
    for (const item of this.items) if (item.state === 'failed' && item.file) Object.assign(item, { state: 'waiting', tries: 0 })
    this.next()
  }

  stop(tell = true) {
    for (const item of this.items ?? []) {
      if (item.state === 'waiting') Object.assign(item, { state: 'failed', reason: 'Cancelled.' })
      item.request?.abort()
    }
    if (tell) this.next()
  }

  report() {
    this.unsaid = false
    const done = this.items.filter((item) => item.state === 'done')
    const failed = this.items.filter((item) => item.state === 'failed').slice(0, MOST_FAILED)
    this.tell('report', {
      url: this.url,
      seq: (this.seq += 1),
      done: done.length,
      bytes: done.reduce((sum, item) => sum + item.size, 0),
      failed: failed.map(({ name, reason }) => ({ name, reason })),
    })
  }

  show() {
    if (this.drawing) return
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null
      this.draw()
    })
  }

  draw() {
    const count = (state) => this.items.filter((item) => item.state === state).length
    const failed = count('failed')
    const busy = this.isBusy()
    const sent = this.items.reduce((sum, i) => sum + (i.state === 'done' ? i.size : i.state === 'sending' ? i.sent : 0), 0)
    this.state.textContent = !this.items.length
      ? ''
      : busy
        ? `${count('done').toLocaleString('en')} of ${files(this.items.length)} sent, ${words(sent)}`
        : `${files(count('done'))} sent, ${words(sent)}${failed ? `; ${failed} not` : ''}`
    this.again.hidden = busy || !this.items.some((item) => item.state === 'failed' && item.file)
    this.cancel.hidden = !busy
    const rank = { sending: 0, failed: 1, waiting: 2, done: 3 }
    const shown = [...this.items].sort((a, b) => rank[a.state] - rank[b.state]).slice(0, SHOWN)
    this.list.replaceChildren(...shown.map(line))
    this.state.parentElement.hidden = !this.items.length
    this.list.hidden = !shown.length || (!busy && !failed && this.items.length > SHOWN)
  }

  end() {
    this.stop(false)
    window.removeEventListener('beforeunload', this.leave)
  }
}

function line(item) {
  const entry = document.createElement('li')
  entry.className = item.state
  const name = document.createElement('span')
  name.className = 'name'
  name.textContent = item.name
  name.title = item.name
  const much = document.createElement('span')
  much.className = 'much'
  const size = item.file?.size ?? item.size ?? 0
  much.textContent = { waiting: words(size), done: `${words(size)} ✓`, failed: item.reason }[item.state] ?? `${words(item.sent)} of ${words(size)}`
  entry.append(name, much)
  if (item.state === 'sending') {
    const bar = document.createElement('progress')
    bar.max = Math.max(1, size)
    bar.value = item.sent
    bar.setAttribute('aria-label', `Sending ${item.name}`)
    entry.append(bar)
  }
  return entry
}

export default function ({ parentElement, data, setStateValue }) {
  let zone = zones.get(parentElement)
  if (!zone) {
    zone = new Zone(parentElement)
    zones.set(parentElement, zone)
  }
  zone.use(data, setStateValue)
  return whenGone(parentElement, () => {
    zone.end()
    zones.delete(parentElement)
  })
}
