//! "Did you mean": the nearest of a few words.

/// Edits that a misspelling may have; more is another word.
const LIMIT: usize = 3;

/// Words longer than this are not misspellings of an option: comparing them is not worth its time.
const LONGEST: usize = 64;

/// The word of `options` that `word` may have been meant to be: fewer than three edits away, case ignored, in the
/// case of `word` where that is all upper or all lower. `None` too when `word` is one of the options.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<String> {
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        let distance = distance(&lower, &option.to_lowercase());
        if distance == 0 {
            return None;
        }
        if distance < best.map_or(LIMIT, |(least, _)| least) {
            best = Some((distance, option));
        }
    }
    let (_, option) = best?;
    if word == lower {
        Some(option.to_lowercase())
    } else if word == word.to_uppercase() {
        Some(option.to_uppercase())
    } else {
        Some(option.to_owned())
    }
}

/// ` (did you mean X?)`, or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, options)
        .map(|option| format!(" (did you mean {option}?)"))
        .unwrap_or_default()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_in_the_case_of_the_question() {
        let options = ["FROM", "RUN", "COPY", "ENTRYPOINT"];
        for (word, expected) in [
            ("FORM", Some("FROM")),
            ("form", Some("from")),
            ("Frm", Some("FROM")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("RUN", None),
            ("completely", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, options).as_deref(), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), options), None);
    }
}
