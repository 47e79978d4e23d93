//! Archives byte by byte, so that they can be wrong on purpose.
#![allow(dead_code, reason = "each suite uses some of it")]

/// A header with a right checksum.
pub fn header(name: &str, typeflag: u8, size: u64, link: &str) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{size:011o}\x0000000000000\0").as_bytes());
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    block[156] = typeflag;
    checksum(&mut block);
    block
}

/// Makes the checksum right again.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Data up to the next block.
pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// A PAX header for the member that follows.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let mut length = key.len() + value.len() + 3;
        length += length.to_string().len();
        if format!("{length} {key}={value}\n").len() != length {
            length += 1;
        }
        data.push_str(&format!("{length} {key}={value}\n"));
    }
    [
        header("x", b'x', data.len() as u64, "").to_vec(),
        padded(data.as_bytes()),
    ]
    .concat()
}

/// Members and the end.
pub fn archive(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = parts.concat();
    all.extend_from_slice(&[0; 1024]);
    all
}
