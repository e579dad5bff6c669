/** Text files that people drop on the page: read whole, refused with a reason when they are too big or no text. */

import { bytes } from "../shared/format.ts";
import type { Attachment } from "./conversation.ts";

export const LARGEST_FILE_BYTES = 512_000;

/** Throws Error with a sentence for the person. */
export async function readAttachment(file: File): Promise<Attachment> {
  if (file.size > LARGEST_FILE_BYTES) {
    throw new Error(`${file.name} has ${bytes(file.size)}; at most ${bytes(LARGEST_FILE_BYTES)} can be attached.`);
  }
  const content = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(content);
    if (!text.includes("\0")) return { name: file.name, text };
  } catch {
    // Not UTF-8; said below.
  }
  throw new Error(`${file.name} is not a text file. Only text in UTF-8 can be attached.`);
}
