//! Law 7: all `unsafe` code is in `couplet-os`, each use has a SAFETY comment with a reason, and no safe
//! function relies on its caller. The lint `undocumented_unsafe_blocks` asks for the comments.

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{Source, assert_none, line, names_in, read, sources};

/// The files elsewhere that need `unsafe`: a counting allocator, a test that breaks the loops of
/// its process, and the conversion of Python's descriptor numbers.
const NEED_IT: [&str; 3] = [
    "crates/couplet-core/tests/breaking/mod.rs",
    "testkit/src/counting.rs",
    "python/src/descriptor.rs",
];
/// With these words a SAFETY comment appeals to the caller of its function, which is then not safe.
const APPEALS: [&str; 5] = ["caller", "owner", "promise", "see the type", "whoever"];
/// The only safe functions that take the number of a descriptor: they reject descriptors of this
/// program.
const CHECKS: [&str; 2] = [
    "crates/couplet-os/src/descriptor.rs: inherited",
    "crates/couplet-os/src/descriptor.rs: take_inherited",
];

/// The uses of `unsafe` in a file that may have none, and the SAFETY comments without a reason.
fn broken_in(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut broken = Vec::new();
    if !path.starts_with("crates/couplet-os/") && !NEED_IT.contains(&&**path) {
        let tokens = source.text.parse().expect("it compiles");
        if names_in(tokens).iter().any(|name| name == "unsafe") {
            broken.push(format!("{path} is unsafe outside couplet-os"));
        }
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        // The manifests of Python's packages forbid it.
        let is_package = ["crates/", "programs/", "bench/"].iter().any(|it| path.starts_with(it));
        if is_root && is_package && !source.text.contains("#![forbid(unsafe_code)]") {
            broken.push(format!("{path} has no #![forbid(unsafe_code)]"));
        }
    }
    let mut lines = (1..).zip(source.text.lines().map(str::trim)).peekable();
    while let Some((number, line)) = lines.next() {
        let Some(reason) = line.strip_prefix("// SAFETY:") else { continue };
        let mut reason = reason.to_owned();
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with("//")) {
            reason += more;
        }
        let words = reason.split_whitespace().filter(|word| word.contains(char::is_alphabetic));
        let words = words.count();
        if words < 2 {
            broken.push(format!("{path}:{number} has no SAFETY comment with a reason"));
        }
    }
    broken
}

#[test]
fn unsafe_lives_in_couplet_os_with_a_safety_line_each() {
    let mut broken: Vec<String> = sources("").iter().flat_map(broken_in).collect();
    let lints = read("Cargo.toml");
    if !lints.contains("\nundocumented_unsafe_blocks = \"warn\"\n") {
        broken.push("Cargo.toml does not ask for SAFETY comments".to_owned());
    }
    assert_none(&broken, "law 7: unsafe lives in couplet-os, with a SAFETY line each");
    for (path, text, count) in [
        ("couplet-os/src/heap.rs", "fn f() {\n // SAFETY:\n unsafe { g() }\n}", 1),
        ("couplet-os/src/heap.rs", "fn f() {\n // SAFETY: \n // - !\n unsafe { g() }\n}", 1),
        ("couplet-os/src/heap.rs", "fn f() {\n // SAFETY: fine\n unsafe { g() }\n}", 1),
        ("couplet-os/src/heap.rs", "// SAFETY: `g` reads\n// nothing.\nunsafe { g() }", 0),
        ("couplet-core/src/error.rs", "const _: u8 = unsafe { f() };", 1),
        ("couplet-core/src/error.rs", "m! { unsafe { f() } }", 1),
        ("couplet-core/src/error.rs", "const S: &str = \"unsafe\"; // unsafe", 0),
        ("couplet-core/src/lib.rs", "mod error;", 1),
    ] {
        let source = Source { path: format!("crates/{path}"), text: text.to_owned() };
        assert_eq!(broken_in(&source).len(), count, "{path}: {text}");
    }
}

/// The safe functions of a file that rely on their callers: the line, the name, and the reason.
struct Reliant<'a> {
    lines: Vec<&'a str>,
    /// The parameters of private functions count too.
    all: bool,
    found: Vec<(usize, String, String)>,
}

impl Reliant<'_> {
    /// Checks a safe function: its parameters, and the SAFETY comments in its body.
    fn look(&mut self, signature: &syn::Signature, is_public: bool, block: Option<&syn::Block>) {
        if matches!(signature.safety, syn::Safety::Unsafe(_)) {
            return;
        }
        let mut add = |line, why| self.found.push((line, signature.ident.to_string(), why));
        for parameter in signature.inputs.iter().filter(|_| is_public || self.all) {
            if takes_a_number(parameter) {
                add(line(parameter.span()), "takes the number of a descriptor".to_owned());
            }
        }
        let Some(block) = block else { return };
        let last = block.brace_token.span.close().end().line;
        let mut is_safety = false;
        for number in line(block.brace_token.span.open())..=last {
            let text = self.lines[number - 1].trim_start();
            is_safety = text.starts_with("//") && (is_safety || text.contains("SAFETY:"));
            if let Some(word) = APPEALS.iter().find(|word| is_safety && text.contains(**word)) {
                add(number, format!("is safe, and appeals: {word:?}"));
            }
        }
    }
}

/// Whether a parameter is a descriptor by number.
fn takes_a_number(parameter: &syn::FnArg) -> bool {
    let syn::FnArg::Typed(parameter) = parameter else { return false };
    let names = names_in(parameter.pat.to_token_stream());
    let types = names_in(parameter.ty.to_token_stream());
    let is = |names: &[String], some: &[&str]| names.iter().any(|name| some.contains(&&**name));
    is(&types, &["RawFd", "RawSocket", "RawHandle"])
        || is(&types, &["i32", "u32", "c_int"])
            && is(&names, &["fd", "descriptor", "descriptors", "socket"])
}

impl Visit<'_> for Reliant<'_> {
    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.look(&item.sig, is_public, Some(&item.block));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.look(&item.sig, is_public, Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        self.look(&item.sig, true, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn no_safe_function_relies_on_its_caller() {
    let mut broken = Vec::new();
    for source in sources("crates/couplet-os/src").iter().chain(&sources("python/src")) {
        let (path, lines) = (&source.path, source.text.lines().collect());
        let mut reliant = Reliant { lines, all: path.starts_with("python/"), found: Vec::new() };
        reliant.visit_file(&syn::parse_file(&source.text).expect("it compiles"));
        let found = reliant.found.into_iter();
        let found = found.filter(|(_, name, _)| !CHECKS.contains(&&*format!("{path}: {name}")));
        broken.extend(found.map(|(number, name, why)| format!("{path}:{number}: {name} {why}")));
    }
    let rule =
        "law 7: what a caller must promise is for an unsafe fn; a descriptor is borrowed (AsFd)";
    assert_none(&broken, rule);
}
