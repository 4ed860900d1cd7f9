//! How far two words are apart, to guess what somebody meant.

/// Levenshtein's distance: how many letters to change, add or drop.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_changed_added_and_dropped_letters() {
        assert_eq!(super::distance("pool", "pool"), 0);
        assert_eq!(super::distance("tool", "pools"), 2);
        assert_eq!(super::distance("", "abc"), 3);
    }
}
