//! Compression of layer tars. The bytes that come out depend on the bytes that go in and on the
//! setting, on nothing else: not on how the input was cut into writes, not on the number of threads.

/// Media type of an uncompressed layer.
pub const MEDIA_TYPE_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a gzip layer.
pub const MEDIA_TYPE_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a zstd layer.
pub const MEDIA_TYPE_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// How a layer is to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip, level 0 to 9; docker's default is 6.
    Gzip(u32),
    /// zstd, level 1 to 22; its default is 3.
    Zstd(i32),
}
