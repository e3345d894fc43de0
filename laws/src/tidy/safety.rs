//! Law 7: each use of `unsafe` has a SAFETY comment with a reason, and no safe function relies on its
//! caller. The lint `unsafe_code` keeps other code in `couplet-os`, and `undocumented_unsafe_blocks` asks for
//! the comments.

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, Signature, Visibility};

use super::source::{Source, assert_none, line, names_in, read, sources};

/// With these words a SAFETY comment appeals to the caller of its function, which is then not safe.
const APPEALS: [&str; 5] = ["caller", "owner", "promise", "see the type", "whoever"];
/// The only safe functions that take the number of a descriptor: they reject descriptors of this
/// program.
const CHECKS: [&str; 2] = ["descriptor.rs: inherited", "descriptor.rs: take_inherited"];

/// The lines of SAFETY comments without a reason.
fn without_a_reason(text: &str) -> Vec<usize> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| {
        let reason = line.trim_start().strip_prefix("// SAFETY:");
        let is_word = |word: &&str| word.contains(char::is_alphabetic);
        reason.is_some_and(|reason| reason.split_whitespace().filter(is_word).count() < 2)
    });
    lines.map(|(number, _)| number).collect()
}

#[test]
fn every_safety_comment_has_a_reason() {
    let mut broken = Vec::new();
    for Source { path, text } in sources("") {
        broken.extend(without_a_reason(&text).iter().map(|number| format!("{path}:{number}")));
    }
    assert_none(&broken, "law 7: a SAFETY comment has a reason");
    for lint in ["unsafe_code = \"deny\"", "undocumented_unsafe_blocks = \"warn\""] {
        assert!(
            read("Cargo.toml").contains(&format!("\n{lint}\n")),
            "law 7: Cargo.toml has {lint}"
        );
    }
    let text = "// SAFETY:\n// SAFETY: fine !\n// SAFETY: `g` reads\n// nothing.\nunsafe { g() }";
    assert_eq!(without_a_reason(text), [1, 2]);
}

/// The safe functions of a file that rely on their callers, with the reason.
struct Reliant<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// The parameters of private functions count too.
    all: bool,
    found: Vec<String>,
}

impl Reliant<'_> {
    /// Checks a safe function: its parameters, and the SAFETY comments in its body. A function of a trait
    /// is as visible as the trait.
    fn look(&mut self, of: &Signature, visibility: Option<&Visibility>, body: Option<&Block>) {
        let name =
            format!("{}: {}", self.path.trim_start_matches("crates/couplet-os/src/"), of.ident);
        if CHECKS.contains(&&*name) || matches!(of.safety, syn::Safety::Unsafe(_)) {
            return;
        }
        let mut add = |line, why: &str| {
            self.found.push(format!("{}:{line}: {} {why}", self.path, of.ident));
        };
        if self.all || !matches!(visibility, Some(Visibility::Inherited)) {
            for parameter in of.inputs.iter().filter(|it| takes_a_number(it)) {
                add(line(parameter.span()), "takes the number of a descriptor");
            }
        }
        let mut is_safety = false;
        let lines = body.map(|body| line(body.span())..=body.span().end().line);
        for number in lines.into_iter().flatten() {
            let text = self.lines[number - 1].trim_start();
            is_safety = text.starts_with("//") && (is_safety || text.contains("SAFETY:"));
            if let Some(word) = APPEALS.iter().find(|word| is_safety && text.contains(**word)) {
                add(number, &format!("is safe, and appeals: {word:?}"));
            }
        }
    }
}

/// Whether a parameter is a descriptor by number.
fn takes_a_number(parameter: &syn::FnArg) -> bool {
    let names = names_in(parameter.to_token_stream());
    let has = |some: &[&str]| names.iter().any(|name| some.contains(&&**name));
    has(&["RawFd", "RawSocket", "RawHandle"])
        || has(&["i32", "u32", "c_int"]) && has(&["fd", "descriptor", "descriptors", "socket"])
}

impl Visit<'_> for Reliant<'_> {
    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.look(&item.sig, Some(&item.vis), Some(&item.block));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        self.look(&item.sig, Some(&item.vis), Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        self.look(&item.sig, None, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn no_safe_function_relies_on_its_caller() {
    let mut broken = Vec::new();
    for Source { path, text } in
        ["crates/couplet-os/src", "python/src"].into_iter().flat_map(sources)
    {
        let (lines, all) = (text.lines().collect(), path.starts_with("python/"));
        let mut reliant = Reliant { path: &path, lines, all, found: Vec::new() };
        reliant.visit_file(&syn::parse_file(&text).expect("it compiles"));
        broken.extend(reliant.found);
    }
    assert_none(
        &broken,
        "law 7: only unsafe functions rely on callers; borrow a descriptor (AsFd)",
    );
}
