/** Whole numbers as half-precision floats, which every graphics card can interpolate. Up to 2048 they are exact. */

export const LEVELS = 2 ** 16; // -32768 to 32767

let table: Uint16Array | null = null;

/** The bits of each level. */
export function halves(): Uint16Array {
  table ??= Uint16Array.from({ length: LEVELS }, (_, index) => bits(index - LEVELS / 2));
  return table;
}

const value = new Float32Array(1);
const single = new Uint32Array(value.buffer);

function bits(whole: number): number {
  value[0] = whole;
  const [given = 0] = single;
  if (whole === 0) return 0;
  const rounded = (given & 0x7fffffff) + 0x1000; // half of the last digit that is kept
  return ((given >>> 16) & 0x8000) | ((rounded - (112 << 23)) >>> 13);
}
