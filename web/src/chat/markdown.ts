/**
 * Markdown to safe markup, block by block, so that a growing answer renders only its last block again.
 * Raw HTML in an answer is shown as text, images become links, and the sanitiser has the last word.
 */

import DOMPurify from "dompurify";
import { Marked, type Token, type TokensList } from "marked";
import { highlight } from "./highlight.ts";

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    html: ({ text }) => escapeHtml(text),
    image: ({ href, text }) => `<a href="${escapeHtml(href)}" target="_blank" rel="noopener noreferrer">${escapeHtml(text || href)}</a>`,
    link({ href, tokens }) {
      return `<a href="${escapeHtml(href)}" target="_blank" rel="noopener noreferrer">${this.parser.parseInline(tokens)}</a>`;
    },
    code: ({ text, lang }) => codeBlock(text, (lang ?? "").trim().split(/\s/, 1)[0] ?? ""),
    table(token) {
      const cells = (row: typeof token.header, tag: string) =>
        row.map((cell) => `<${tag}${cell.align ? ` align="${cell.align}"` : ""}>${this.parser.parseInline(cell.tokens)}</${tag}>`).join("");
      const body = token.rows.map((row) => `<tr>${cells(row, "td")}</tr>`).join("");
      return `<div class="table-scroll" tabindex="0"><table><thead><tr>${cells(token.header, "th")}</tr></thead><tbody>${body}</tbody></table></div>`;
    },
  },
});

const SANITISED = {
  ALLOWED_TAGS: (
    "a b blockquote br button code del div em h1 h2 h3 h4 h5 h6 hr i input li ol p pre s span strong sub sup table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "rel", "start", "tabindex", "target", "type"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
} as const;

/** The top-level blocks of a text. The list carries the link definitions found anywhere in it. */
export function blocksOf(text: string): Token[] {
  return marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
}

/** One block as markup that may be shown. */
export function renderBlock(block: Token): string {
  const markup = marked.parser([block] as unknown as TokensList);
  // TrustedHTML stands in for a string wherever markup is assigned, and is one where browsers do not know it.
  return DOMPurify.sanitize(markup, { ...SANITISED, ALLOWED_TAGS: [...SANITISED.ALLOWED_TAGS], ALLOWED_ATTR: [...SANITISED.ALLOWED_ATTR] }) as unknown as string;
}

/** The button's work is done by whoever listens to clicks on `.code-copy`. */
function codeBlock(code: string, language: string): string {
  return (
    `<div class="code"><div class="code-head"><span>${escapeHtml(language || "text")}</span>` +
    `<button type="button" class="code-copy">Copy</button></div><pre tabindex="0"><code>${highlight(code, language)}</code></pre></div>`
  );
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
