//! Words with variables, and the values of `--mount`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::expand::Expander;
use rbuild_parser::mount::Mount;

fuzz_target!(|word: &str| {
    let lookup = |name: &str| (name.len() % 2 == 1).then(|| name.repeat(2));
    for escape in ['\\', '`'] {
        let expander = Expander::new(escape);
        let _ = expander.word(word, &lookup);
        let _ = expander.words(word, &lookup);
        let _ = expander.heredoc(word, &lookup);
    }
    let _ = Mount::parse(word, &mut |value| Ok(value.to_owned()));
});
