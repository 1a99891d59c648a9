/** The JSON of the service, as docs/service.md and docs/guide.md describe it. */

export type Status = "queued" | "running" | "completed" | "failed" | "cancelled";
export type Vec3 = [number, number, number];
export type Risk = "low" | "intermediate" | "high";

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
}

export interface Progress {
  status: Status;
  progress: number; // percent
  windows_done: number;
  windows_total: number | null;
  error?: Problem | null;
}

/** The progress of the review of a job: number of findings read, readers, and time of the last change. */
export interface ReadState {
  read: number;
  total: number;
  by: string[];
  at: string | null;
}

export interface Job extends Progress {
  job_id: string;
  scan_id: string;
  size_bytes: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  expires_at: string | null;
  links: { self: string; results: string; files: string; stream: string };
  review?: ReadState | null; // only in the list; null: there is nothing to read yet
}

export interface JobPage {
  jobs: Job[];
  next: string | null;
}

/** The kind of a file. Newer services may send kinds that this page does not know. */
export type Kind = "detections" | "table" | "findings" | "heatmap" | "visualization" | "report" | "3d" | "dicom" | "scan" | (string & {});

export interface JobFile {
  kind: Kind;
  name: string;
  url: string;
  media_type: string;
  size_bytes: number;
}

export interface Limits {
  upload_bytes: number;
}

interface Ruled {
  assumptions: string[];
  reason: string | null;
}

export interface LungRads extends Ruled {
  category: string | null;
  management: string | null;
}

export interface Guidelines {
  lung_rads: LungRads;
  fleischner: Ruled & { low_risk: string | null; high_risk: string | null };
  brock: Ruled & { "2a": { upper_lobe: number; other_lobe: number } | null; "2b": number | null };
  bts: Ruled & { management: string | null };
}

/** A mark with position, diameter and confidence. `coordinates` are index times spacing, in mm. */
export interface Mark {
  coordinates: Vec3;
  coordinates_lps: Vec3 | null;
  diameter_mm: number | null; // null: added by a reader, and cannot be segmented
  confidence: number | null; // null: added by a reader
  nodule_probability?: number | null; // by the model's validation; null: not measured
}

/** The location of a nodule in the lungs; null: unknown. */
export interface Location {
  side: string | null; // left, right or midline
  third: string | null; // upper, middle or lower
}

export interface Detection extends Mark {
  id: number;
  coordinates_voxel: Vec3;
  location?: Location;
  image_number?: number | null; // of its slice in a DICOM series
  diameter_source?: "segmentation" | "network";
  properties: {
    volume_mm3: number | null;
    mean_intensity: number | null;
    long_axis_mm?: number | null;
    short_axis_mm?: number | null;
    sphericity?: number | null;
    solid_fraction?: number | null;
    nodule_type?: string | null;
  };
  triage: { malignancy_score: number | null; risk_category: Risk | null; reason?: string | null };
  guidelines?: Guidelines;
}

export interface Report {
  scan_id: string;
  model: string;
  timestamp: string;
  metadata: {
    spacing: Vec3;
    shape: Vec3;
    notes?: string[];
    left_out?: Record<string, number>;
    config?: { post_processing?: { peak_detection?: { threshold?: number }; confidence_filter?: { min_confidence?: number } } };
  };
  detections: Detection[];
  masses?: Detection[];
  candidates?: Mark[];
  summary: {
    num_detections: number;
    processing_time_seconds: number;
    lung_rads?: LungRads;
    conclusion?: string;
    warnings?: string[];
  };
}

/** A reader's verdict on the finding with this label. The service adds the reader and the time. */
export interface Verdict {
  finding: string;
  verdict: "accepted" | "rejected" | null;
  reason: string | null;
  nodule_type: string | null;
  comment: string;
  by?: string;
  at?: string;
}

/** A nodule that a reader added. */
export interface Added {
  finding: string;
  coordinates: Vec3;
  coordinates_voxel: Vec3;
  coordinates_lps: Vec3;
  diameter_mm: number | null;
  properties: Detection["properties"];
  outline: PackedMask | null;
}

/** A distance that a reader measured; its ends are LPS mm. */
export interface Distance {
  from_lps: Vec3;
  to_lps: Vec3;
  plane: "axial" | "coronal" | "sagittal";
}

export interface Review {
  version: number;
  findings: Verdict[];
  added: Added[];
  distances: Distance[];
  comment: string;
  progress: { read: number; total: number };
}

/** A mask: a box of voxels from the index `origin` on; `bits` are base64, the last axis fastest. */
export interface PackedMask {
  origin: Vec3;
  shape: Vec3;
  bits: string;
}

/** The mask of a finding. */
export interface FindingMask extends PackedMask {
  number: number;
}

/** The masks of a job; `affine` maps voxels to RAS+ mm. */
export interface FindingMasks {
  affine: number[][];
  masks: FindingMask[];
}

/** The positions of the points of one scan in another, LPS mm: nodes of a lattice, x fastest. */
export interface Lattice {
  origin: Vec3;
  step: Vec3;
  shape: Vec3;
  places: number[];
}

/** A nodule in one of two examinations. Without a label, it was found only at the expected position of its partner. */
export interface Seen {
  label?: string | null;
  coordinates_lps: Vec3;
  diameter_mm: number;
  properties: Detection["properties"];
}

export interface Followed {
  number: number;
  status: "matched" | "new" | "resolved" | "not visible";
  baseline: Seen | null;
  followup: Seen | null;
  expected_lps: Vec3;
  growth: {
    trend: string | null;
    volume_change_percent: number | null;
    doubling_time_days: number | null;
    doubling_time_days_95: [number, number | null] | null;
    reason?: string | null;
  } | null;
  lung_rads: LungRads | null;
}

/** The comparison of a job with an earlier one. */
export interface Followup {
  interval: { days: number | null; reason: string | null };
  registration: { method: string; lung_overlap: number; warnings: string[] };
  repeatability: { volume_change_percent_95: number; source: string };
  nodules: Followed[];
  lung_rads: { category: string | null; management: string | null; assumptions: string[]; reason: string | null };
  notes: string[];
  links: { to_baseline: Lattice; to_followup: Lattice };
}

/** Whether the job has ended. */
export const ended = (status: Status): boolean => status !== "queued" && status !== "running";
