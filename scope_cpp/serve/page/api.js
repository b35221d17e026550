// The server's API: requests, streams of events, and errors in words.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const WORDS = {
  401: "The server wants an API key: give it in the settings.",
  403: "The server refuses this request.",
  404: "The server does not know this address.",
  413: "The message is longer than the server accepts.",
  429: "The server has no room for another request now: try again in a moment.",
  503: "The server is shutting down or not ready.",
};

function inWords(status, told) {
  const general = WORDS[status] ?? (status >= 500 ? "The server failed." : "");
  const exact = told ? `${told[0].toUpperCase()}${told.slice(1)}` : `(HTTP ${status})`;
  return `${general} ${exact}`.trim();
}

async function ask(path, { key, ...options } = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError("The server can't be reached: is it still running?", 0);
  }
  if (response.ok) return response;
  const told = await response.json().then((body) => body?.error?.message, () => null);
  throw new ApiError(inWords(response.status, told), response.status);
}

// The first model of the server; its field `scope`, if any, says what may be set.
export async function findModel(key) {
  const body = await (await ask("v1/models", { key })).json();
  return body.data[0];
}

// Yields the chunks of an answer.
export async function* chat(body, { key, signal }) {
  const response = await ask("v1/chat/completions", {
    method: "POST", body: JSON.stringify(body), key, signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(`The answer ended early: ${chunk.error.message}`, 200);
    yield chunk;
  }
  throw new ApiError("The connection ended before the answer did.", 200);
}

// Data of server-sent events, whatever pieces the network cuts them into.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trimStart();
      }
    }
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError("The connection broke before the answer ended.", 200);
  } finally {
    reader.cancel().catch(() => {});
  }
}
