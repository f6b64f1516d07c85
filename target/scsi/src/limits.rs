//! What one command may ask for at most; VPD page B0h says the same.

/// Blocks of one COMPARE AND WRITE: all that its field can say.
pub(crate) const COMPARE_AND_WRITE_BLOCKS_MAX: u8 = 255;
/// Blocks of one UNMAP, over all its descriptors.
pub(crate) const UNMAP_BLOCKS_MAX: u32 = 1024 * 1024;
/// Block descriptors of one UNMAP.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// Blocks of one WRITE ATOMIC.
pub(crate) const ATOMIC_BLOCKS_MAX: u32 = 256;
/// Bytes that a sanitize operation writes in a second: it may go on for hours, and others use the same disk.
pub(crate) const SANITIZE_BYTES_PER_SECOND_MAX: u64 = 40 << 20;
/// Bytes of one parameter list, for all commands but those that transfer blocks.
pub(crate) const PARAMETER_BYTES_MAX: usize = 8192;
/// LBA status descriptors in one reply.
pub(crate) const LBA_STATUS_DESCRIPTORS_MAX: usize = 1024;

/// Blocks of one WRITE SAME: all that WRITE SAME(10) can say.
pub(crate) const WRITE_SAME_BLOCKS_MAX: u64 = 65535;
