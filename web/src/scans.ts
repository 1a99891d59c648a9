/** Turns dropped or selected files into scans to upload. Loose DICOM files become one zip. */

import { Zip, ZipPassThrough } from "fflate";

const WHOLE = /\.(nii|nii\.gz|mha|nrrd|zip)$/i; // one file is one scan

/** The scans in `files`. Files that are no whole scans are taken as the slices of one DICOM series called `name`. */
export async function scansOf(files: File[], name: string): Promise<File[]> {
  const whole = files.filter((file) => WHOLE.test(file.name));
  const slices = files.filter((file) => !WHOLE.test(file.name) && !file.name.startsWith("."));
  const [only] = slices;
  if (only && slices.length === 1) return [...whole, only];
  return slices.length > 0 ? [...whole, await zipped(slices, name)] : whole;
}

/** An uncompressed zip with numbered members, because names of DICOM files may contain a patient's name. */
export async function zipped(files: File[], name: string): Promise<File> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  const zip = new Zip((error, part: Uint8Array) => {
    if (error) throw error;
    parts.push(part as Uint8Array<ArrayBuffer>);
  });
  for (const [number, file] of files.entries()) {
    const member = new ZipPassThrough(`${String(number + 1).padStart(6, "0")}.dcm`);
    zip.add(member);
    member.push(new Uint8Array(await file.arrayBuffer()), true);
  }
  zip.end();
  return new File(parts, `${name}.zip`, { type: "application/zip" });
}

/** All dropped files, including those in folders, and the name of the first folder. */
export async function dropped(transfer: DataTransfer): Promise<{ files: File[]; name: string }> {
  const loose = [...transfer.files]; // read now, because the data is gone after the event
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const folder = entries.find((entry) => entry.isDirectory);
  if (!folder) return { files: loose, name: "series" };
  return { files: (await Promise.all(entries.map(filesOf))).flat(), name: folder.name };
}

async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const all: File[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...(await Promise.all(some.map(filesOf))).flat());
  }
}
