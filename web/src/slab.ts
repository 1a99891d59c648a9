/** Slabs: each plane shows the brightest voxels within some millimetres (maximum intensity projection). */

import type { Niivue } from "@niivue/niivue";
import type { Vec3 } from "./contract";

export const SLABS = [0, 5, 8, 10] as const; // mm; 0: single slices

/**
 * NiiVue's shader of slices with more samples across the plane; without them it draws the same. Between voxels it is
 * linear, so that the brightest of a slab is in the middle of a voxel or at the slab's edge.
 */
const SHADER = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume, overlay;
uniform int axCorSag;
uniform float overlays;
uniform float opacity;
uniform vec3 slabEdge;
uniform ivec3 slabCount;
in vec3 texPos;
out vec4 color;
void main() {
  int axis = axCorSag == 0 ? 2 : axCorSag == 1 ? 1 : 0;
  vec3 voxel = vec3(0.0), edge = vec3(0.0);
  voxel[axis] = 1.0 / float(textureSize(volume, 0)[axis]);
  edge[axis] = slabEdge[axis];
  vec3 brightest = texture(volume, texPos).rgb;
  vec4 heat = overlays > 0.0 ? texture(overlay, texPos) : vec4(0.0);
  for (int i = 1; i <= slabCount[axis] + 1 && slabEdge[axis] > 0.0; i++) {
    vec3 away = i <= slabCount[axis] ? float(i) * voxel : edge;
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

/** For each axis the voxels on each side within a slab of `mm`, and where its edge is, as a share of the volume. */
export function samples(mm: number, size: Vec3, spacing: Vec3): { count: Vec3; edge: Vec3 } {
  const count = spacing.map((one) => Math.floor(mm / 2 / one + 1e-6)) as Vec3;
  const edge = size.map((number, axis) => mm / 2 / (number * (spacing[axis] ?? 1))) as Vec3;
  return { count, edge };
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
  const { count, edge } = samples(mm, three(dimsRAS), three(pixDimsRAS));
  nv.gl.useProgram(program);
  nv.gl.uniform3f(nv.gl.getUniformLocation(program, "slabEdge"), ...edge);
  nv.gl.uniform3i(nv.gl.getUniformLocation(program, "slabCount"), ...count);
}
