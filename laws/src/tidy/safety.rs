//! Law 7: all `unsafe` code is in `couplet-os`, each use has a SAFETY comment, and no safe function
//! relies on its caller.

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
const CHECKS: (&str, [&str; 2]) =
    ("crates/couplet-os/src/descriptor.rs", ["inherited ", "take_inherited "]);

/// The unsafe items of a file: the line, and whether it needs a SAFETY comment. An `unsafe fn` has
/// a `# Safety` section instead.
#[derive(Default)]
struct Unsafe(Vec<(usize, bool)>);

impl Visit<'_> for Unsafe {
    fn visit_expr_unsafe(&mut self, block: &syn::ExprUnsafe) {
        self.0.push((line(block.unsafe_token.span()), true));
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.0.push((line(token.span()), true));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &syn::ItemTrait) {
        if let Some(token) = &item.unsafety {
            self.0.push((line(token.span()), false));
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &syn::ItemForeignMod) {
        if let Some(token) = &item.unsafety {
            self.0.push((line(token.span()), true));
        }
    }

    fn visit_signature(&mut self, signature: &syn::Signature) {
        if let syn::Safety::Unsafe(token) = &signature.safety {
            self.0.push((line(token.span()), false));
        }
        visit::visit_signature(self, signature);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        if names_in(call.tokens.clone()).iter().any(|name| name == "unsafe") {
            self.0.push((line(call.path.span()), true));
        }
    }
}

/// The words of a SAFETY comment, which begins in the first line.
fn words_of(lines: &[&str]) -> usize {
    let comment = lines.iter().map(|line| line.trim()).take_while(|line| line.starts_with("//"));
    let text = comment.collect::<Vec<_>>().join(" ");
    let reason = text.split_once("SAFETY:").map_or("", |(_, reason)| reason);
    reason.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count()
}

fn broken_in(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Unsafe::default();
    found.visit_file(&syn::parse_file(&source.text).expect("it compiles"));
    let mut broken = Vec::new();
    for (number, needs_a_line) in found.0 {
        let is_here = source.path.starts_with("crates/couplet-os/");
        if !is_here && !NEED_IT.contains(&&*source.path) {
            broken.push(format!("{}:{number} is unsafe outside couplet-os", source.path));
        }
        let above = &lines[number.saturating_sub(6)..number - 1];
        let reason = above.iter().rposition(|line| line.contains("SAFETY:"));
        let words = reason.map_or(0, |at| words_of(&above[at..]));
        if needs_a_line && words < 2 {
            broken.push(format!("{}:{number} has no SAFETY comment with a reason", source.path));
        }
    }
    broken
}

#[test]
fn unsafe_lives_in_couplet_os_with_a_safety_line_each() {
    let files = [
        "crates",
        "programs",
        "bench",
        "examples",
        "python/src",
        "python/deferred",
        "python/examples",
    ]
    .into_iter()
    .flat_map(sources);
    let mut broken: Vec<String> = files.flat_map(|source| broken_in(&source)).collect();
    for library in [
        "crates/couplet/src/lib.rs",
        "crates/couplet-core/src/lib.rs",
        "crates/couplet-defer/src/lib.rs",
        "crates/couplet-http/src/lib.rs",
        "crates/couplet-http2/src/lib.rs",
        "crates/couplet-sim/src/lib.rs",
        "bench/src/main.rs",
        "programs/couplet/src/lib.rs",
        "programs/couplet/src/main.rs",
        "crates/couplet-command/src/lib.rs",
        "crates/couplet-runner/src/lib.rs",
        "programs/chat/src/lib.rs",
        "programs/chat/src/main.rs",
        "programs/poetry/src/lib.rs",
        "programs/poetry/src/main.rs",
    ] {
        let root = syn::parse_file(&read(library)).expect("it compiles");
        let forbids = root.attrs.iter().any(|attribute| {
            attribute.path().is_ident("forbid")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|lint| lint.is_ident("unsafe_code"))
        });
        if !forbids {
            broken.push(format!("{library} has no #![forbid(unsafe_code)]"));
        }
    }
    assert_none(&broken, "law 7: unsafe lives in couplet-os, with a SAFETY line each");
}

#[test]
fn every_unsafe_use_without_a_reason_is_found() {
    let found = |text: &str| {
        let path = "crates/couplet-os/src/heap.rs".to_owned();
        broken_in(&Source { path, text: text.to_owned() }).len()
    };
    for text in [
        "fn f() {\n unsafe { g() }\n}",
        "fn f() {\n // SAFETY:\n unsafe { g() }\n}",
        "fn f() {\n // SAFETY: \n // - !\n unsafe { g() }\n}",
        "fn f() {\n // SAFETY: fine\n unsafe { g() }\n}",
        "// SAFETY:\nunsafe impl Send for S {}",
        "// SAFETY:\nm! { unsafe { g() } }",
    ] {
        assert_eq!(found(text), 1, "this passes: {text}");
    }
    assert_eq!(found("fn f() {\n // SAFETY: `g` reads\n // nothing.\n unsafe { g() }\n}"), 0);
    let elsewhere = Source {
        path: "crates/couplet-core/src/lib.rs".to_owned(),
        text: "// SAFETY: it is not used.\nconst _: u8 = unsafe { f() };".to_owned(),
    };
    assert_eq!(broken_in(&elsewhere).len(), 1);
}

/// The safe functions of a file that rely on their callers: the line, and the reason.
struct Reliant<'a> {
    lines: Vec<&'a str>,
    /// The parameters of private functions count too.
    all: bool,
    found: Vec<(usize, String)>,
}

impl Reliant<'_> {
    /// Checks a safe function: its parameters, and the SAFETY comments in its body.
    fn look(&mut self, signature: &syn::Signature, is_public: bool, block: Option<&syn::Block>) {
        if matches!(signature.safety, syn::Safety::Unsafe(_)) {
            return;
        }
        let name = signature.ident.to_string();
        for parameter in &signature.inputs {
            if (is_public || self.all) && takes_a_number(parameter) {
                self.found
                    .push((line(parameter.span()), format!("{name} takes the number of one")));
            }
        }
        let Some(block) = block else { return };
        let last = block.brace_token.span.close().end().line;
        let mut is_safety = false;
        for number in line(block.brace_token.span.open())..=last {
            let text = self.lines[number - 1].trim_start();
            is_safety = text.starts_with("//") && (is_safety || text.contains("SAFETY:"));
            if let Some(word) = APPEALS.iter().find(|word| is_safety && text.contains(**word)) {
                self.found.push((number, format!("{name} is safe, and appeals: {word:?}")));
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
        let lines = source.text.lines().collect();
        let all = source.path.starts_with("python/");
        let mut reliant = Reliant { lines, all, found: Vec::new() };
        reliant.visit_file(&syn::parse_file(&source.text).expect("it compiles"));
        let checks = |how: &str| {
            source.path == CHECKS.0 && CHECKS.1.iter().any(|name| how.starts_with(name))
        };
        let found = reliant.found.into_iter().filter(|(_, how)| !checks(how));
        broken.extend(found.map(|(number, how)| format!("{}:{number}: {how}", source.path)));
    }
    let rule =
        "law 7: what a caller must promise is for an unsafe fn; a descriptor is borrowed (AsFd)";
    assert_none(&broken, rule);
}
