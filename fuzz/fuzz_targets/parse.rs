//! Dockerfiles: what is printed parses, and prints the same again; the build checks do not mind what they see.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{lint, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = parse(bytes) else { return };
    lint::check(&file);
    let printed = file.to_string();
    let again = parse(printed.as_bytes()).unwrap_or_else(|errors| panic!("{printed:?}: {errors:?}"));
    assert_eq!(file.stages.len(), again.stages.len());
    assert_eq!(again.to_string(), printed);
});
