/** Markdown on the page. A block whose text has not changed is not rendered again. */

import { useMemo } from "preact/hooks";
import type { Token } from "marked";
import { blocksOf, renderBlock } from "./markdown.ts";

export function Markdown({ text }: { text: string }) {
  const blocks = useMemo(() => blocksOf(text), [text]);
  return (
    <div class="markdown">
      {blocks.map((block, index) => (
        <Block key={index} block={block} />
      ))}
    </div>
  );
}

function Block({ block }: { block: Token }) {
  return useMemo(() => <div dangerouslySetInnerHTML={{ __html: renderBlock(block) }} />, [block.type, block.raw]);
}
