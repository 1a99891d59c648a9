/**
 * Draws the slices with a shader of this page, from a texture of the scan in HU.
 *
 * NiiVue itself recomputes the grey values and gradients of all voxels with every change of the window. That takes
 * seconds for a large scan, and almost a minute without a graphics card.
 */

import type { Niivue, NVImage } from "@niivue/niivue";
import { halves, LEVELS } from "./half";
import type { Vec3 } from "./contract";
import { samples } from "./slab";

/** The parts of NiiVue's volume that the texture needs. */
type Voxels = Pick<NVImage, "img" | "dimsRAS" | "img2RASstart" | "img2RASstep"> & { hdr: { scl_slope: number; scl_inter: number } | null };

const UNIT = 15; // texture unit that NiiVue uses only for region growing

/** One uniform a line, as NiiVue expects. The texture is linear between voxels, so the maximum of a slab is at a voxel's centre or at the slab's edge. */
const SHADER = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D scan;
uniform highp sampler3D overlay;
uniform int axCorSag;
uniform float overlays;
uniform float opacity;
uniform float heatOpacity;
uniform vec2 range;
uniform vec3 slabEdge;
uniform ivec3 slabCount;
in vec3 texPos;
out vec4 color;
void main() {
  int axis = axCorSag == 0 ? 2 : axCorSag == 1 ? 1 : 0;
  vec3 voxel = vec3(0.0), edge = vec3(0.0);
  voxel[axis] = 1.0 / float(textureSize(scan, 0)[axis]);
  edge[axis] = slabEdge[axis];
  float brightest = texture(scan, texPos).r;
  vec4 heat = overlays > 0.0 ? texture(overlay, texPos) : vec4(0.0);
  for (int i = 1; i <= slabCount[axis] + 1 && slabEdge[axis] > 0.0; i++) {
    vec3 away = i <= slabCount[axis] ? float(i) * voxel : edge;
    brightest = max(brightest, max(texture(scan, texPos - away).r, texture(scan, texPos + away).r));
    if (overlays > 0.0) {
      vec4 below = texture(overlay, texPos - away), above = texture(overlay, texPos + away);
      if (below.a > heat.a) heat = below;
      if (above.a > heat.a) heat = above;
    }
  }
  heat.a *= heatOpacity;
  float grey = clamp((brightest - range.x) / (range.y - range.x), 0.0, 1.0);
  color = vec4(vec3(grey), opacity);
  float alpha = color.a + heat.a * (1.0 - color.a);
  if (alpha > 0.0) color = vec4(mix(color.rgb, heat.rgb, heat.a / alpha), alpha);
}`;

/** Install the shader in NiiVue, before a volume is loaded. */
export function useSlices(nv: Niivue): void {
  nv.setCustomSliceShader(SHADER);
  const { gl } = nv;
  const refresh = nv.refreshLayers.bind(nv);
  const texture = nv.rgbaTex.bind(nv);
  nv.rgbaTex = (before, unit, dims) => texture(before, unit, dims); // without filling it with zeros first
  let [shown, uploaded]: [NVImage | null, WebGLTexture | null] = [null, null];
  nv.refreshLayers = (volume, layer) => {
    if (layer > 0) {
      refresh(volume, layer);
      return;
    }
    withoutDrawing(gl, () => refresh(volume, layer)); // NiiVue registers the volume but fills no textures
    if (volume !== shown) {
      gl.deleteTexture(uploaded);
      [shown, uploaded] = [volume, upload(gl, volume)];
    }
    const program = programOf(nv);
    gl.useProgram(program);
    gl.uniform1i(gl.getUniformLocation(program, "scan"), UNIT);
    gl.uniform2f(gl.getUniformLocation(program, "range"), volume.cal_min ?? 0, volume.cal_max ?? 1);
  };
}

/** Set the opacity of the heatmap, which was loaded with opacity 1. */
export function setHeat(nv: Niivue, opacity: number): void {
  const program = programOf(nv);
  nv.gl.useProgram(program);
  nv.gl.uniform1f(nv.gl.getUniformLocation(program, "heatOpacity"), opacity);
}

/** Set the thickness of the slabs in mm. */
export function setSlab(nv: Niivue, mm: number): void {
  const { dimsRAS = [], pixDimsRAS = [] } = nv.volumes[0] ?? {};
  if (dimsRAS.length === 0) return;
  const three = (values: number[]): Vec3 => [values[1] ?? 1, values[2] ?? 1, values[3] ?? 1];
  const { count, edge } = samples(mm, three(dimsRAS), three(pixDimsRAS));
  const program = programOf(nv);
  nv.gl.useProgram(program);
  nv.gl.uniform3f(nv.gl.getUniformLocation(program, "slabEdge"), ...edge);
  nv.gl.uniform3i(nv.gl.getUniformLocation(program, "slabCount"), ...count);
}

function programOf({ customSliceShader }: Niivue): WebGLProgram {
  if (!customSliceShader) throw new Error("The viewer has no shader.");
  return customSliceShader.program;
}

/** Run `act` while the calls that fill textures do nothing. */
function withoutDrawing(gl: WebGL2RenderingContext, act: () => void): void {
  const nothing = (): void => undefined;
  const complete = (): number => gl.FRAMEBUFFER_COMPLETE;
  const replaced = { texStorage3D: nothing, texSubImage3D: nothing, drawArrays: nothing, framebufferTextureLayer: nothing, checkFramebufferStatus: complete };
  for (const [name, value] of Object.entries(replaced)) Object.defineProperty(gl, name, { value, configurable: true });
  try {
    act();
  } finally {
    for (const name of Object.keys(replaced)) Reflect.deleteProperty(gl, name);
  }
}

/** A texture of the volume in HU, along the axes of RAS+. */
function upload(gl: WebGL2RenderingContext, volume: NVImage): WebGLTexture {
  const [, wide = 1, high = 1, deep = 1] = volume.dimsRAS ?? [];
  const texture = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0 + UNIT);
  gl.bindTexture(gl.TEXTURE_3D, texture);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, filter, gl.LINEAR);
  for (const edge of [gl.TEXTURE_WRAP_R, gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_3D, edge, gl.CLAMP_TO_EDGE);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.texStorage3D(gl.TEXTURE_3D, 1, gl.R16F, wide, high, deep);
  let z = 0;
  for (const slice of slicesOf(volume)) gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, z++, wide, high, 1, gl.RED, gl.HALF_FLOAT, slice);
  return texture;
}

/** The slices of a volume in HU as half-precision floats, from feet to head, each from right to left and back to front. All slices share one array. */
export function* slicesOf({ img, hdr, dimsRAS = [], img2RASstart = [], img2RASstep = [] }: Voxels): Generator<Uint16Array<ArrayBuffer>> {
  const [, wide = 1, high = 1, deep = 1] = dimsRAS;
  const [across = 1, up = 1, through = 1] = img2RASstep;
  const start = img2RASstart.reduce((sum, one) => sum + one, 0);
  const [slope, offset] = [hdr?.scl_slope ?? 1, (hdr?.scl_inter ?? 0) + LEVELS / 2];
  const half = halves();
  const slice = new Uint16Array(wide * high);
  for (let z = 0; z < deep; z++) {
    for (let y = 0, at = 0; y < high; y++) {
      let from = start + y * up + z * through;
      for (let x = 0; x < wide; x++, from += across) {
        const level = Math.round((img?.[from] ?? 0) * slope + offset);
        slice[at++] = half[Math.min(LEVELS - 1, Math.max(0, level))] ?? 0;
      }
    }
    yield slice;
  }
}
