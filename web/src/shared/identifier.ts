/** A new random identifier. `crypto.randomUUID` would do, but plain HTTP beyond this machine does not have it. */
export function newIdentifier(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
