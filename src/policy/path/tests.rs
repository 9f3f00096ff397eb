use super::*;
use proptest::prelude::*;

const DEFAULT: PathOptions = PathOptions { merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };
const SEPARATE: PathOptions = PathOptions { merge_slashes: false, ..DEFAULT };
const STRICT: PathOptions = PathOptions { escaped_slashes: EscapedSlashes::Reject, ..DEFAULT };

fn check(options: PathOptions, cases: &[(&str, &str)]) {
    for (given, expected) in cases {
        assert_eq!(normalize(given, options).as_deref(), Ok(*expected), "{given}");
    }
}

#[test]
fn a_normal_path_is_borrowed() {
    for path in [
        "/",
        "*",
        "/a/b-c_d~e/.well-known/..x/f.g",
        "/a;b=c,d/$&'()*+:@!",
        "/%20/%2F/%5C/%C3%A9",
        "/a/?x=//../%zz|{}\\",
    ] {
        assert!(matches!(normalize(path, DEFAULT), Ok(Cow::Borrowed(p)) if p == path), "{path}");
    }
}

#[test]
fn dot_segments_are_removed_as_rfc_3986_says() {
    check(
        DEFAULT,
        &[
            ("/a/b/c/./../../g", "/a/g"),
            ("/mid/content=5/../6", "/mid/6"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/./?q", "/a/?q"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b?x=/../", "/b?x=/../"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
        ],
    );
}

#[test]
fn climbing_above_the_root_is_refused() {
    for path in ["/..", "/../a", "/a/../../b", "/%2e%2e", "//..", "/./.."] {
        assert_eq!(normalize(path, DEFAULT), Err(PathError::AboveRoot), "{path}");
    }
}

#[test]
fn slashes_merge_only_when_asked() {
    check(DEFAULT, &[("//", "/"), ("//a///b//", "/a/b/"), ("/a//../b", "/b"), ("/a?x=//", "/a?x=//")]);
    check(SEPARATE, &[("//", "//"), ("//a//", "//a//"), ("/a//../b", "/a/b"), ("//..", "/")]);
}

#[test]
fn encodings_take_one_form() {
    check(
        DEFAULT,
        &[
            ("/%7euser/%41%2d", "/~user/A-"),
            ("/%c3%a9%3a", "/%C3%A9%3A"),
            ("/é", "/%C3%A9"),
            ("/a{b}|\"<>^`[]", "/a%7Bb%7D%7C%22%3C%3E%5E%60%5B%5D"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a?é", "/a?%C3%A9"),
        ],
    );
}

#[test]
fn an_encoded_slash_never_separates_segments() {
    check(DEFAULT, &[("/a%2f..%2fb", "/a%2F..%2Fb"), ("/a%5c..", "/a%5C.."), ("/a\\..", "/a%5C..")]);
    for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb"] {
        assert_eq!(normalize(path, STRICT), Err(PathError::EscapedSlash), "{path}");
    }
    assert_eq!(normalize("/a\\b", STRICT), Err(PathError::Backslash));
}

#[test]
fn what_has_two_readings_is_refused() {
    for (path, error) in [
        ("a/b", PathError::NotAbsolute),
        ("*x", PathError::NotAbsolute),
        ("*?x", PathError::NotAbsolute),
        ("**", PathError::NotAbsolute),
        ("/a#b", PathError::Fragment),
        ("/a?x#b", PathError::Fragment),
        ("/%", PathError::BadEncoding),
        ("/%4", PathError::BadEncoding),
        ("/%zz", PathError::BadEncoding),
        ("/%4/1", PathError::BadEncoding),
        ("/%4?1", PathError::BadEncoding),
        ("/%é", PathError::BadEncoding),
        ("/%00", PathError::Control),
        ("/%1f", PathError::Control),
        ("/%7F", PathError::Control),
        ("/a\u{0}", PathError::Control),
        ("/a b", PathError::Control),
        ("/a\u{7f}", PathError::Control),
        ("/a?x\ty", PathError::Control),
        ("/a?x y", PathError::Control),
    ] {
        assert_eq!(normalize(path, DEFAULT), Err(error), "{path:?}");
    }
}

#[test]
fn an_empty_path_is_the_root() {
    check(DEFAULT, &[("", "/"), ("?x=1", "/?x=1")]);
}

fn options() -> impl Strategy<Value = PathOptions> {
    (any::<bool>(), any::<bool>()).prop_map(|(merge_slashes, keep)| PathOptions {
        merge_slashes,
        escaped_slashes: if keep { EscapedSlashes::Keep } else { EscapedSlashes::Reject },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn normalising_twice_changes_nothing(
        path in "(/|\\.|%2[eEfF]|%5c|%[0-9a-fA-F]{2}|[a-c~\\\\é?{]){0,12}",
        options in options(),
    ) {
        if let Ok(once) = normalize(&format!("/{path}"), options) {
            let twice = normalize(&once, options);
            prop_assert!(matches!(twice, Ok(Cow::Borrowed(same)) if same == once), "{once} became {twice:?}");
        }
    }

    #[test]
    fn the_normal_form_holds_what_it_promises(path in "\\PC{0,24}", options in options()) {
        if let Ok(normal) = normalize(&format!("/{path}"), options) {
            let (path, _) = split(&normal);
            prop_assert!(normal.is_ascii());
            prop_assert!(path.starts_with('/'));
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(!options.merge_slashes || !path.contains("//"));
        }
    }

    #[test]
    fn any_text_is_survived(path in any::<String>(), options in options()) {
        let _ = normalize(&path, options);
    }

    /// The fast path agrees with the slow one.
    #[test]
    fn what_is_borrowed_would_be_rebuilt_the_same(
        path in "/([a-c./~%2EFé]|%2F|%20){0,10}(\\?[a-c%./]{0,4})?",
        options in options(),
    ) {
        if is_normal(path.as_bytes(), options) {
            prop_assert_eq!(rebuild(&path, options), Ok(path));
        }
    }
}
