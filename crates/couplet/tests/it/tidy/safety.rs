//! Law 7: `unsafe` lives in `couplet-os`, with a SAFETY line each.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{Source, assert_none, line, names_in, read, sources};

/// A counting allocator, which needs `unsafe`.
const COUNTS: &str = "crates/couplet/tests/counting/mod.rs";

/// The unsafe items of a file: the line, and whether it needs a SAFETY comment. An `unsafe fn` has a
/// `# Safety` section instead.
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

fn broken_in(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Unsafe::default();
    found.visit_file(&syn::parse_file(&source.text).expect("it compiles"));
    let mut broken = Vec::new();
    for (number, needs_a_line) in found.0 {
        if !(source.path.starts_with("crates/couplet-os/") || source.path == COUNTS) {
            broken.push(format!("{}:{number} is unsafe outside couplet-os", source.path));
        }
        let above = &lines[number.saturating_sub(6)..number - 1];
        if needs_a_line && !above.iter().any(|line| line.contains("SAFETY:")) {
            broken.push(format!("{}:{number} has no SAFETY comment above it", source.path));
        }
    }
    broken
}

#[test]
fn unsafe_lives_in_couplet_os_with_a_safety_line_each() {
    let mut broken: Vec<String> = sources("crates").iter().flat_map(broken_in).collect();
    for library in ["crates/couplet/src/lib.rs", "crates/couplet-cli/src/main.rs"] {
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
