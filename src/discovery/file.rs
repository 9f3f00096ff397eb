//! Reading a configuration file.

use std::io::{self, Read as _};
use std::path::Path;

/// Reads a configuration file, as much of it as could be one.
///
/// # Errors
/// When it cannot be read or is not text.
pub fn read(path: &Path) -> io::Result<String> {
    // One byte more than allowed, so that loading sees that it is too large.
    let limit = outrigger_config::limits::MAX_TEXT_BYTES as u64 + 1;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
    // Cut in the middle of a character it is still too large, and says so.
    String::from_utf8(text).or_else(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = error.into_bytes();
        if text.len() as u64 == limit && text.len() - valid < 4 {
            Ok(String::from_utf8_lossy(&text).into_owned())
        } else {
            let line = text[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_is_not_text_is_refused_with_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.yaml");
        fs::write(&path, b"a: 1\nb: \xff\n").expect("written");
        let error = read(&path).expect_err("not text");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
