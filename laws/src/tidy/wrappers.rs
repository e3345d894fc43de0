//! Wrappers forward every callback: default methods would hide a missing one.

use std::collections::BTreeMap;

use super::source::{
    Code, assert_none, last_of, library, line, name_of, names_in, with_parsed_code,
};

/// A trait, and the bounds that mark its wrappers.
const KINDS: [(&str, &[&str]); 4] = [
    ("Protocol", &["Protocol", "LineProtocol", "StringProtocol"]),
    ("LineProtocol", &["LineProtocol"]),
    ("StringProtocol", &["StringProtocol"]),
    ("Factory", &["Factory"]),
];

/// The callbacks of a trait: its methods that may change the object.
fn callbacks(files: &[Code], name: &str) -> Vec<String> {
    let items = files.iter().flat_map(|file| &file.syntax.items);
    let found = items.filter_map(|item| match item {
        syn::Item::Trait(item) if item.ident == name => Some(item),
        _ => None,
    });
    let items = found.flat_map(|found| &found.items).filter_map(|item| match item {
        syn::TraitItem::Fn(function) => Some(&function.sig),
        _ => None,
    });
    let changes = |signature: &&syn::Signature| {
        let kind = signature.receiver().map(|receiver| &receiver.kind);
        matches!(kind, Some(syn::ReceiverKind::Reference(_, _, object)) if object.is_some())
    };
    items.filter(changes).map(|signature| signature.ident.to_string()).collect()
}

/// The functions that each macro of the library defines.
fn functions_of_macros(files: &[Code]) -> BTreeMap<String, Vec<String>> {
    let mut macros = BTreeMap::new();
    for item in files.iter().flat_map(|file| &file.syntax.items) {
        if let syn::Item::Macro(item) = item
            && let Some(name) = &item.ident
        {
            let names = names_in(item.mac.tokens.clone());
            let functions = names.windows(2).filter(|pair| pair[0] == "fn");
            macros.insert(name.to_string(), functions.map(|pair| pair[1].clone()).collect());
        }
    }
    macros
}

/// True for `impl<P: Protocol> Protocol for Wrapper<P>`.
fn wraps(item: &syn::ItemImpl, kinds: &[&str]) -> bool {
    let is = |bound: &syn::TypeParamBound| {
        matches!(bound, syn::TypeParamBound::Trait(bound)
            if kinds.contains(&last_of(&bound.path).as_str()))
    };
    let in_place = item.generics.type_params().any(|parameter| parameter.bounds.iter().any(is));
    let clauses = item.generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    in_place
        || clauses.into_iter().any(|predicate| {
            matches!(predicate, syn::WherePredicate::Type(ty) if ty.bounds.iter().any(is))
        })
}

/// The functions of an impl block, including those from macros.
fn functions(item: &syn::ItemImpl, macros: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut has = Vec::new();
    for item in &item.items {
        match item {
            syn::ImplItem::Fn(function) => has.push(function.sig.ident.to_string()),
            syn::ImplItem::Macro(call) => {
                has.extend(macros.get(&last_of(&call.mac.path)).cloned().unwrap_or_default());
            }
            _ => {}
        }
    }
    has
}

#[test]
fn every_wrapper_forwards_every_callback() {
    with_parsed_code(|| {
        let files = library("couplet");
        let macros = functions_of_macros(files);
        let mut broken = Vec::new();
        let mut wrappers = 0;
        for (name, kinds) in KINDS {
            let callbacks = callbacks(files, name);
            assert!(callbacks.len() > 5, "the trait {name} was not found");
            for file in files {
                for item in &file.syntax.items {
                    let syn::Item::Impl(item) = item else { continue };
                    let is = item.trait_.as_ref().is_some_and(|(path, ..)| last_of(path) == name);
                    if !is || !wraps(item, kinds) {
                        continue;
                    }
                    wrappers += 1;
                    let has = functions(item, &macros);
                    for missing in callbacks.iter().filter(|callback| !has.contains(callback)) {
                        let (path, line) = (&file.path, line(item.impl_token.span));
                        let wrapper = name_of(&item.self_ty);
                        broken.push(format!("{path}:{line}: {wrapper} does not forward {missing}"));
                    }
                }
            }
        }
        assert!(wrappers >= 6, "the wrappers were not found; has their form changed?");
        assert_none(&broken, "a wrapper forwards every callback to what it wraps");
    });
}

/// Framed protocols get every callback that plain ones get.
#[test]
fn every_kind_of_protocol_has_every_callback() {
    with_parsed_code(|| {
        let files = library("couplet");
        let mut broken = Vec::new();
        for name in ["LineProtocol", "StringProtocol"] {
            let has = callbacks(files, name);
            for callback in callbacks(files, "Protocol") {
                if !["data_received", "upgraded"].contains(&&*callback) && !has.contains(&callback)
                {
                    broken.push(format!("{name} has no {callback}"));
                }
            }
        }
        assert_none(&broken, "a framer forwards every callback, so its protocols need it too");
    });
}
