//! A command template of a configuration file: `Template::parse` and `render` must answer or refuse, never panic.
//!
//! The input is the template, and then keys and values in turn, all separated by NUL.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use overseerctl::template::Template;
use overseerctl::utf8;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.split(|&byte| byte == 0).map(utf8::to_valid);
    let text = parts.next().unwrap_or_default();
    let mut params = BTreeMap::new();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        params.insert(key.into_owned(), value.into_owned());
    }
    let Ok(template) = Template::parse(&text) else {
        assert!(text.contains("[["), "a text without actions was refused");
        return;
    };
    let rendered = template.render(&params).ok();
    assert_eq!(
        template.render(&params).ok(),
        rendered,
        "two renderings differ"
    );
    if !text.contains("[[") {
        assert_eq!(
            rendered.as_deref(),
            Some(&*text),
            "a text without actions was changed"
        );
    }
});
