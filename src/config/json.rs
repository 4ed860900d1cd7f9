//! JSON read as Go's encoding/json reads it, since the files were written for that.
//!
//! Lives here: field names in any letter case, the last of a field given twice
//! wins, null leaves the zero value, unknown fields are skipped, bytes that are no
//! UTF-8 are replaced. Not here: which fields there are. What a reader gets wrong:
//! Go converts nothing, so a number where a text belongs is an error there, too.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// What is wrong, and where in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
    /// The path to the value: `[1].rbd.radosNamespace`; empty when the text is no JSON.
    pub field: String,
    /// What is wrong with it.
    pub text: String,
}

/// The result of reading.
pub type Result<T> = std::result::Result<T, Fault>;

/// A text that has been found to be JSON.
pub struct Document<'a> {
    text: &'a str,
    root: &'a RawValue,
}

impl<'a> Document<'a> {
    /// Checks the syntax of the whole text.
    pub fn parse(text: &'a str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(root) => Ok(Self { text, root }),
            Err(error) => Err(Fault {
                line: error.line(),
                column: error.column(),
                field: String::new(),
                text: bare(&error),
            }),
        }
    }

    /// The outermost value.
    pub fn root(&'a self) -> Value<'a> {
        Value { document: self, raw: self.root, path: String::new() }
    }
}

/// A value in a document, with the path to it.
pub struct Value<'a> {
    document: &'a Document<'a>,
    raw: &'a RawValue,
    path: String,
}

impl<'a> Value<'a> {
    /// The elements of a list; none for null.
    pub fn list(&self) -> Result<Vec<Value<'a>>> {
        let elements: Option<Vec<&'a RawValue>> = self.typed("a list")?;
        let elements = elements.unwrap_or_default().into_iter().enumerate();
        Ok(elements.map(|(n, raw)| self.at(raw, format!("{}[{n}]", self.path))).collect())
    }

    /// The fields of an object in the order of the text, their names folded; none for null.
    pub fn fields(&self) -> Result<Vec<(String, Value<'a>)>> {
        let Pairs(pairs) = self.typed::<Option<Pairs<'a>>>("an object")?.unwrap_or_default();
        let dot = if self.path.is_empty() { "" } else { "." };
        Ok(pairs
            .into_iter()
            .map(|(name, raw)| (fold(&name), self.at(raw, format!("{}{dot}{name}", self.path))))
            .collect())
    }

    /// A string; `None` for null.
    pub fn string(&self) -> Result<Option<String>> {
        self.typed("a string")
    }

    /// A whole number; `None` for null.
    pub fn integer(&self) -> Result<Option<i64>> {
        self.typed("a whole number")
    }

    /// A truth value, also one written as a string; `None` for null.
    pub fn boolean(&self) -> Result<Option<bool>> {
        match self.raw.get().trim_matches('"') {
            "" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => self.typed("true or false"),
        }
    }

    fn at(&self, raw: &'a RawValue, path: String) -> Value<'a> {
        Value { document: self.document, raw, path }
    }

    fn typed<T: Deserialize<'a>>(&self, expected: &str) -> Result<T> {
        serde_json::from_str(self.raw.get()).map_err(|error| {
            let (line, column) = self.position();
            let text = match error.classify() {
                Category::Data => format!("expected {expected}, found {}", kind(self.raw.get())),
                _ => bare(&error),
            };
            Fault { line, column, field: self.path.clone(), text }
        })
    }

    /// Where the value begins: a `RawValue` is a piece of the document's own text.
    fn position(&self) -> (usize, usize) {
        let offset = (self.raw.get().as_ptr() as usize).saturating_sub(self.document.text.as_ptr() as usize);
        let before = &self.document.text.as_bytes()[..offset.min(self.document.text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        (line, before.len() - line_start + 1)
    }
}

/// An object's fields in the order of the text, repeated ones included.
#[derive(Default)]
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Reader).map(Pairs)
    }
}

/// Folds a field name as Go does: letter case, and the two letters whose simple
/// fold is ASCII though they are not (the long s and the Kelvin sign).
fn fold(name: &str) -> String {
    name.chars()
        .map(|letter| match letter {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .collect()
}

fn kind(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The error's text without the place that serde_json puts behind it.
fn bare(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}
