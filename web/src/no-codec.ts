/** Replaces the codecs of Zarr, which this page never loads. */

export default null;
