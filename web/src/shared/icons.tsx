/** The icons of both pages: strokes on a grid of 24, in the colour of the text around them. */

const PATHS = {
  attach: "M20 11.5 12.3 19.2a5 5 0 0 1-7-7l8.4-8.5a3.3 3.3 0 0 1 4.7 4.7l-8.3 8.3a1.6 1.6 0 0 1-2.3-2.3l7.5-7.5",
  chart: "M4 4v14.5A1.5 1.5 0 0 0 5.5 20H20 M8.5 15v-3.5 M13 15V7.5 M17.5 15v-5",
  chat: "M20 11.5a7.5 7.5 0 0 1-7.8 7.5 8.6 8.6 0 0 1-3.2-.6L4.5 20l1.3-4A7.2 7.2 0 0 1 4.5 12 7.6 7.6 0 0 1 12.2 4 7.6 7.6 0 0 1 20 11.5z",
  check: "M5 12.5 10 17.5 19.5 7",
  close: "M6.5 6.5l11 11 M17.5 6.5l-11 11",
  copy: "M9 9h9.5A1.5 1.5 0 0 1 20 10.5V18.5A1.5 1.5 0 0 1 18.5 20H10.5A1.5 1.5 0 0 1 9 18.5z M15 9V5.5A1.5 1.5 0 0 0 13.5 4H5.5A1.5 1.5 0 0 0 4 5.5v8A1.5 1.5 0 0 0 5.5 15H9",
  dark: "M19.5 14.3A7.8 7.8 0 0 1 9.7 4.5a7.8 7.8 0 1 0 9.8 9.8z",
  down: "M12 5v13.5 M6.5 13 12 18.5 17.5 13",
  edit: "M4.5 19.5l.8-3.9L15.8 5.2a1.8 1.8 0 0 1 2.5 0l.5.5a1.8 1.8 0 0 1 0 2.5L8.4 18.7z M14 7l3 3",
  file: "M13.5 4H7.5A1.5 1.5 0 0 0 6 5.5v13A1.5 1.5 0 0 0 7.5 20h9a1.5 1.5 0 0 0 1.5-1.5V8.5z M13.5 4v4.5H18",
  left: "M14.5 6.5 9 12l5.5 5.5",
  light: "M12 8.2a3.8 3.8 0 1 0 0 7.6 3.8 3.8 0 0 0 0-7.6z M12 3v2 M12 19v2 M3 12h2 M19 12h2 M5.6 5.6 7 7 M17 17l1.4 1.4 M18.4 5.6 17 7 M7 17l-1.4 1.4",
  menu: "M4.5 7.5h15 M4.5 12h15 M4.5 16.5h15",
  more: "M6 12h.01 M12 12h.01 M18 12h.01",
  open: "M6.5 9.5 12 15l5.5-5.5",
  plus: "M12 5v14 M5 12h14",
  retry: "M19 12a7 7 0 1 1-2.2-5.1L19.5 9.5 M19.5 5v4.5H15",
  right: "M9.5 6.5 15 12l-5.5 5.5",
  search: "M10.8 4.5a6.3 6.3 0 1 0 0 12.6 6.3 6.3 0 0 0 0-12.6z M15.5 15.5 20 20",
  send: "M12 19V5.5 M6 11.5 12 5.5l6 6",
  settings: "M4 7.5h8.5 M17.5 7.5H20 M15 5v5 M4 16.5h2.5 M11.5 16.5H20 M9 14v5",
  stop: "M8 7h8a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1z",
  system: "M5.5 5h13A1.5 1.5 0 0 1 20 6.5v8a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 14.5v-8A1.5 1.5 0 0 1 5.5 5z M9 20h6 M12 16v4",
  thought: "M12 4a5.8 5.8 0 0 0-3.3 10.6c.5.4.8 1 .8 1.6v.3h5v-.3c0-.6.3-1.2.8-1.6A5.8 5.8 0 0 0 12 4z M10 20h4",
  tool: "M14.5 6.5a3.8 3.8 0 0 1 4.8-1.2L16.8 7.8l.4 2.2 2.2.4 1.1-1.1a3.8 3.8 0 0 1-5.4 3.7L9 19.2a1.9 1.9 0 0 1-2.7-2.7l6.2-6.1a3.8 3.8 0 0 1 2-3.9z",
  trash: "M5 7h14 M10 7V4.5h4V7 M7 7l.7 11.6A1.5 1.5 0 0 0 9.2 20h5.6a1.5 1.5 0 0 0 1.5-1.4L17 7 M10.5 11v5 M13.5 11v5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg
      class={`icon icon-${name}`}
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      stroke-width={name === "more" ? 2.6 : 1.7}
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The abacus. */
export function Mark({ size = 22 }: { size?: number }) {
  const rods = [
    { y: 8, beads: [7, 11, 19] },
    { y: 14, beads: [7, 15, 19] },
    { y: 20, beads: [7, 11, 15] },
  ];
  return (
    <svg class="mark" width={size} height={size} viewBox="0 0 26 28" aria-hidden="true">
      <rect x="2" y="3" width="22" height="22" rx="5" class="mark-frame" />
      {rods.map(({ y, beads }) => (
        <>
          <path d={`M3 ${y}h20`} class="mark-rod" />
          {beads.map((x) => (
            <ellipse cx={x} cy={y} rx="1.9" ry="2.3" class="mark-bead" />
          ))}
        </>
      ))}
    </svg>
  );
}
