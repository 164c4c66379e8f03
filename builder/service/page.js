// The page of a served run: what it is, a form to try it, and its operations as openapi.json tells them.
// Everything that came from elsewhere becomes text, never markup.
'use strict'

const place = id => document.getElementById(id)
let token = ''

function asked(path, more = {}) {
  const headers = { ...(more.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) }
  return fetch(path, { ...more, headers })
}

function made(kind, text, name = '') {
  const element = document.createElement(kind)
  element.textContent = text
  element.className = name
  return element
}

async function introduce() {
  const answer = await asked('run')
  place('locked').hidden = answer.status !== 401
  if (answer.status === 401 && token) place('token').setCustomValidity('This is not the token.')
  if (!answer.ok) return
  const run = await answer.json()
  const classes = run.classes.length ? `: ${run.classes.join(', ')}` : ''
  place('what').textContent = `Run ${run.run} (${run.name}), ${run.task.replaceAll('_', ' ')}${classes}.`
}

async function explain() {
  const schema = await (await asked('openapi.json')).json()
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const box = made('div', '', 'operation')
      box.append(made('code', `${method.toUpperCase()} ${path}`), made('span', `  ${operation.summary || ''}`))
      const body = operation.requestBody?.description
      const query = (operation.parameters || []).map(p => p.name + (p.required ? '' : ' (may be left out)'))
      const codes = Object.entries(operation.responses || {}).filter(([code]) => code !== '200')
      if (query.length) box.append(made('p', `Takes ${query.join(', ')}.`))
      if (body) box.append(made('p', `Body: ${body}`))
      if (codes.length) box.append(made('p', codes.map(([code, told]) => `${code}: ${told.description}`).join('  ')))
      place('operations').append(box)
    }
  }
}

place('unlock').addEventListener('submit', event => {
  event.preventDefault()
  place('token').setCustomValidity('')
  token = place('token').value
  introduce().then(() => place('token').reportValidity())
})
place('token').addEventListener('input', () => place('token').setCustomValidity(''))

place('ask').addEventListener('submit', async event => {
  event.preventDefault()
  const file = place('file').files[0]
  const button = event.target.querySelector('button')
  const said = place('said')
  button.disabled = true
  said.hidden = false
  said.textContent = 'Asking ...'
  try {
    const answer = await asked(`predict?name=${encodeURIComponent(file.name)}`, {
      method: 'POST', body: file, headers: { 'Content-Type': 'application/octet-stream' },
    })
    said.textContent = JSON.stringify(await answer.json(), null, 2)
  } catch (error) {
    said.textContent = `The service could not be asked (${error.message}).`
  }
  button.disabled = false
})

const here = location.origin
place('curl').textContent = `curl --data-binary @scan.dcm "${here}/predict?name=scan.dcm"\n`
  + '# where a token is needed, add:  -H "Authorization: Bearer $SCANLOOM_SERVICE_TOKEN"'
introduce()
explain()
