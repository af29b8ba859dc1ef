//! Words to say what a configuration block may hold. Which options there are is said in [`super::agent_options`] and
//! [`super::options`].
//!
//! An object's keys are the names under which values arrive; attributes and blocks repeat theirs, because only then does
//! the agent look for them under that name.

use std::collections::HashMap;

use crate::proto::hclspec::{
    Attr, Block, BlockAttrs, BlockList, Default as Defaulted, Literal, Object, Spec, spec,
};

/// A block with these members.
pub fn object<const N: usize>(members: [(&str, Spec); N]) -> Spec {
    let attributes = members.map(|(name, spec)| (name.to_owned(), spec));
    wrap(spec::Block::Object(Object {
        attributes: HashMap::from(attributes),
    }))
}

/// An attribute of a type such as `string` or `list(string)`; nil where it is not given.
pub fn attr(name: &str, kind: &str) -> Spec {
    wrap(spec::Block::Attr(Attr {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        required: false,
    }))
}

/// An attribute that a block cannot do without.
pub fn required(name: &str, kind: &str) -> Spec {
    wrap(spec::Block::Attr(Attr {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        required: true,
    }))
}

/// An attribute with a default, which is an expression in HCL: see [`text`] and [`texts`].
pub fn attr_or(name: &str, kind: &str, default: &str) -> Spec {
    let literal = wrap(spec::Block::Literal(Literal {
        value: default.to_owned(),
    }));
    wrap(spec::Block::Default(Box::new(Defaulted {
        primary: Some(Box::new(attr(name, kind))),
        default: Some(Box::new(literal)),
    })))
}

/// One block, or none.
pub fn block(name: &str, nested: Spec) -> Spec {
    wrap(spec::Block::BlockValue(Box::new(Block {
        name: name.to_owned(),
        required: false,
        nested: Some(Box::new(nested)),
    })))
}

/// Any number of blocks.
pub fn blocks(name: &str, nested: Spec) -> Spec {
    wrap(spec::Block::BlockList(Box::new(BlockList {
        name: name.to_owned(),
        min_items: 0,
        max_items: 0,
        nested: Some(Box::new(nested)),
    })))
}

/// A block whose members have names of the user's choice.
pub fn attrs(name: &str, kind: &str) -> Spec {
    wrap(spec::Block::BlockAttrs(BlockAttrs {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        required: false,
    }))
}

/// A string as an expression in HCL, in which quotes, backslashes and templates would mean something.
pub fn text(value: &str) -> String {
    let mut quoted = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '{' if quoted.ends_with(['$', '%']) => {
                let sign = quoted.chars().next_back().unwrap_or_default();
                quoted.extend([sign, '{']);
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of strings as an expression in HCL.
pub fn texts<S: AsRef<str>>(values: &[S]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| text(value.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

fn wrap(block: spec::Block) -> Spec {
    Spec { block: Some(block) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_an_expression() {
        assert_eq!(text("bash"), r#""bash""#);
        assert_eq!(text(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(text("${x} %{y} $z"), r#""$${x} %%{y} $z""#);
        assert_eq!(texts(&["a", "b"]), r#"["a", "b"]"#);
        assert_eq!(texts::<&str>(&[]), "[]");
    }

    #[test]
    fn an_attribute_repeats_its_key() {
        let Some(spec::Block::Object(object)) = object([("shell", attr("shell", "string"))]).block
        else {
            panic!("not an object");
        };
        let Some(spec::Block::Attr(attr)) = &object.attributes["shell"].block else {
            panic!("not an attribute");
        };
        assert_eq!(
            (attr.name.as_str(), attr.r#type.as_str()),
            ("shell", "string")
        );
    }
}
