// The daemon, as the page may use it: every request carries the token of the page's own URL.

const token = new URL(location.href).searchParams.get("token") ?? "";

export class EngineError extends Error {}

async function send(method, path, query = {}, signal = undefined) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const each of [value].flat()) parameters.append(key, each);
  }
  let response;
  try {
    response = await fetch(`/engine/${path}?${parameters}`, { method, signal, headers: { Authorization: `Bearer ${token}` } });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new EngineError("The page cannot reach its server: is 'lading desktop' still running?");
  }
  if (!response.ok) throw new EngineError(await words(response));
  return response;
}

async function words(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).message;
  } catch {
    return text || `${response.status} ${response.statusText}`;
  }
}

// A JSON document; null for an empty answer.
export async function call(method, path, query = {}) {
  const text = await (await send(method, path, query)).text();
  return text.trim() ? JSON.parse(text) : null;
}

// The objects of a progress stream, as they come. An error inside the stream is thrown.
export async function* follow(method, path, query = {}, signal = undefined) {
  const response = await send(method, path, query, signal);
  let rest = "";
  for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.trim()) continue;
      const document = JSON.parse(line);
      if (document.error) throw new EngineError(document.error);
      yield document;
    }
  }
}

// A container's output as text, both streams in the order in which they came. The daemon says in the content type whether
// the bytes are framed: stream number, three zero bytes, length as 32 bits big-endian, then the data.
export async function output(path, query) {
  const response = await send("GET", path, query);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const decoder = new TextDecoder();
  if (!response.headers.get("Content-Type")?.includes("multiplexed")) return decoder.decode(bytes);
  const view = new DataView(bytes.buffer);
  let text = "";
  for (let at = 0; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4);
    text += decoder.decode(bytes.subarray(at + 8, at + 8 + length), { stream: true });
    at += 8 + length;
  }
  return text;
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // the other side may be gone already, and then there is nothing to cancel
  }
}
