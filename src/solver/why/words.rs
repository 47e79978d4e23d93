//! Two versions of an instruction in one line, word by word.

/// Texts whose words, multiplied, are more than this are shown one after the other.
const MOST_PAIRS: usize = 1 << 20;

/// `RUN echo [-one-] {+two+}`: what is only in `from` in brackets, what is only in `to` in braces.
pub fn difference(from: &str, to: &str) -> String {
    let old: Vec<&str> = from.split_whitespace().collect();
    let new: Vec<&str> = to.split_whitespace().collect();
    if old == new || old.len().saturating_mul(new.len()) > MOST_PAIRS {
        return format!("{from:?} -> {to:?}");
    }
    let mut parts: Vec<String> = Vec::new();
    let (mut removed, mut added) = (Vec::<&str>::new(), Vec::<&str>::new());
    let (mut i, mut j) = (0, 0);
    for (at_old, at_new) in common(&old, &new).into_iter().chain([(old.len(), new.len())]) {
        removed.extend(&old[i..at_old]);
        added.extend(&new[j..at_new]);
        if !removed.is_empty() {
            parts.push(format!("[-{}-]", removed.join(" ")));
        }
        if !added.is_empty() {
            parts.push(format!("{{+{}+}}", added.join(" ")));
        }
        (removed, added) = (Vec::new(), Vec::new());
        parts.extend(old.get(at_old).map(|word| (*word).to_owned()));
        (i, j) = (at_old + 1, at_new + 1);
    }
    parts.join(" ")
}

/// How much two texts have in common: 0 for nothing, 1000 for the same words.
pub(super) fn likeness(one: &str, other: &str) -> usize {
    let one: Vec<&str> = one.split_whitespace().collect();
    let other: Vec<&str> = other.split_whitespace().collect();
    let longest = one.len().max(other.len());
    if longest == 0 || one.len().saturating_mul(other.len()) > MOST_PAIRS {
        return 0;
    }
    common(&one, &other).len() * 1000 / longest
}

/// Places of a longest common sequence.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    // The length of the longest sequence from each pair of places on.
    let mut longest = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut places = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            places.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_changed_are_marked() {
        for (from, to, shown) in [
            ("RUN echo one", "RUN echo two", "RUN echo [-one-] {+two+}"),
            ("RUN a b", "RUN a x y b", "RUN a {+x y+} b"),
            ("RUN a b c", "RUN c", "RUN [-a b-] c"),
            ("RUN a", "COPY b /", "[-RUN a-] {+COPY b /+}"),
            ("RUN a  b", "RUN a b", "\"RUN a  b\" -> \"RUN a b\""),
        ] {
            assert_eq!(difference(from, to), shown);
        }
        let long = "x ".repeat(2000);
        assert!(difference(&long, "y y").starts_with("[-x x"));
        assert!(difference(&long, &"y ".repeat(2000)).starts_with("\"x x"));
    }

    #[test]
    fn texts_are_more_or_less_alike() {
        assert_eq!(likeness("RUN a b", "RUN a b"), 1000);
        assert_eq!(likeness("RUN a b", "RUN a c"), 666);
        assert_eq!(likeness("", ""), 0);
    }
}
