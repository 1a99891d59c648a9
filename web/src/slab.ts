/** Slabs: each plane shows the brightest voxels within some millimetres (maximum intensity projection). */

import type { Niivue } from "@niivue/niivue";
import type { Vec3 } from "./contract";

export const SLABS = [0, 5, 8, 10] as const; // mm; 0: single slices

/** NiiVue's shader of slices with more samples across the plane; without them it draws the same. */
const SHADER = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume, overlay;
uniform int axCorSag;
uniform float overlays;
uniform float opacity;
uniform vec3 slabStep;
uniform ivec3 slabCount;
in vec3 texPos;
out vec4 color;
void main() {
  int axis = axCorSag == 0 ? 2 : axCorSag == 1 ? 1 : 0;
  vec3 across = vec3(0.0);
  across[axis] = slabStep[axis];
  vec3 brightest = texture(volume, texPos).rgb;
  vec4 heat = overlays > 0.0 ? texture(overlay, texPos) : vec4(0.0);
  for (int i = 1; i <= slabCount[axis]; i++) {
    vec3 away = float(i) * across;
    brightest = max(brightest, max(texture(volume, texPos - away).rgb, texture(volume, texPos + away).rgb));
    if (overlays > 0.0) {
      vec4 below = texture(overlay, texPos - away), above = texture(overlay, texPos + away);
      if (below.a > heat.a) heat = below;
      if (above.a > heat.a) heat = above;
    }
  }
  color = vec4(brightest, opacity);
  float alpha = color.a + heat.a * (1.0 - color.a);
  if (alpha > 0.0) color = vec4(mix(color.rgb, heat.rgb, heat.a / alpha), alpha);
}`;

/** For each axis the samples on each side of a slab of `mm`, and the share of the volume from one to the next. */
export function samples(mm: number, size: Vec3, spacing: Vec3): { count: Vec3; step: Vec3 } {
  const count = spacing.map((one) => Math.ceil(mm / 2 / one)) as Vec3;
  const step = count.map((number, axis) => (number > 0 ? mm / 2 / number / ((size[axis] ?? 1) * (spacing[axis] ?? 1)) : 0)) as Vec3;
  return { count, step };
}

/** Let NiiVue draw slices with the shader; before there is a volume, because it draws all anew. */
export function useSlabs(nv: Niivue): void {
  nv.setCustomSliceShader(SHADER);
}

/** Draw slabs of `mm` from now on. */
export function setSlab(nv: Niivue, mm: number): void {
  const { dimsRAS = [], pixDimsRAS = [] } = nv.volumes[0] ?? {};
  const program = nv.customSliceShader?.program;
  if (!program || dimsRAS.length === 0) return;
  const three = (values: number[]): Vec3 => [values[1] ?? 1, values[2] ?? 1, values[3] ?? 1];
  const { count, step } = samples(mm, three(dimsRAS), three(pixDimsRAS));
  nv.gl.useProgram(program);
  nv.gl.uniform3f(nv.gl.getUniformLocation(program, "slabStep"), ...step);
  nv.gl.uniform3i(nv.gl.getUniformLocation(program, "slabCount"), ...count);
}
