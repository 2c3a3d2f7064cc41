// Requests to the server.

/**
 * Sends a body, and returns what the server answers in JSON.
 * @throws {Error} The server refuses it, with its message; or it does not answer, with `offline`.
 */
export async function post(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body });
  } catch {
    const error = new Error("The server does not answer. Is it still running?");
    throw Object.assign(error, { offline: true });
  }
  if (response.ok) return response.json();
  const { error } = await response.json().catch(() => ({ error: `Error ${response.status}.` }));
  throw new Error(error);
}
