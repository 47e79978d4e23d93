//! Tar archives, as layers and as what ADD extracts: no name leaves the root, and all data can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_cache::layer::TarReader;

fuzz_target!(|bytes: &[u8]| {
    for mut reader in [TarReader::layer(bytes), TarReader::archive(bytes)] {
        while let Ok(Some(member)) = reader.next_entry() {
            assert!(member.entry.path.components().all(|part| part != b".."));
            while let Ok(data) = reader.data() {
                let length = data.len();
                if length == 0 {
                    break;
                }
                reader.consume_data(length);
            }
        }
    }
});
