//! Wrappers forward every callback: default methods would hide a missing one.

use std::collections::BTreeMap;

use quote::ToTokens;
use syn::{Item, TraitItem};

use super::source::{LIBRARY, assert_none, functions_in, line, name_of, names_in, trait_of};

/// A trait, and the bounds that mark its wrappers.
const KINDS: [(&str, &[&str]); 4] = [
    ("Protocol", &["Protocol", "LineProtocol", "StringProtocol"]),
    ("LineProtocol", &["LineProtocol"]),
    ("StringProtocol", &["StringProtocol"]),
    ("Factory", &["Factory"]),
];

/// The callbacks of a trait: its methods that may change the object.
fn callbacks(of: &syn::ItemTrait) -> Vec<String> {
    let changes = |of: &syn::Signature| {
        of.receiver().is_some_and(|it| names_in(it.to_token_stream()).contains(&"mut".to_owned()))
    };
    let callbacks = of.items.iter().filter_map(|item| match item {
        TraitItem::Fn(of) if changes(&of.sig) => Some(of.sig.ident.to_string()),
        _ => None,
    });
    callbacks.collect()
}

/// True for `impl<P: Protocol> Protocol for Wrapper<P>`.
fn is_wrapper(item: &syn::ItemImpl) -> bool {
    let mut bounds = names_in(item.generics.to_token_stream());
    bounds.extend(names_in(item.generics.where_clause.to_token_stream()));
    let kind = KINDS.iter().find(|(kind, _)| *kind == trait_of(item));
    kind.is_some_and(|(_, kinds)| bounds.iter().any(|bound| kinds.contains(&&**bound)))
}

#[test]
fn every_wrapper_forwards_every_callback() {
    let mut items = Vec::new();
    for file in LIBRARY.iter() {
        if ["Protocol", "Factory", "macro_rules!"].iter().any(|name| file.text.contains(name)) {
            items.extend(file.syntax().items.into_iter().map(|item| (&file.path, item)));
        }
    }
    // The callbacks of each trait, and the functions that each macro defines.
    let (mut traits, mut macros) = (BTreeMap::new(), BTreeMap::new());
    for (_, item) in &items {
        if let Item::Trait(item) = item {
            traits.insert(item.ident.to_string(), callbacks(item));
        } else if let Item::Macro(syn::ItemMacro { ident: Some(name), mac, .. }) = item {
            macros.insert(name.to_string(), functions_in(mac.tokens.clone()));
        }
    }
    let (mut broken, mut wrappers) = (Vec::new(), 0);
    for (path, item) in &items {
        let Item::Impl(item) = item else { continue };
        if !is_wrapper(item) {
            continue;
        }
        wrappers += 1;
        let tokens = item.to_token_stream();
        let called = names_in(tokens.clone()).into_iter().filter_map(|name| macros.get(&name));
        let has: Vec<_> = functions_in(tokens).iter().chain(called.flatten()).cloned().collect();
        for missing in traits[&trait_of(item)].iter().filter(|callback| !has.contains(callback)) {
            let (line, wrapper) = (line(item.impl_token.span), name_of(&item.self_ty));
            broken.push(format!("{path}:{line}: {wrapper} does not forward {missing}"));
        }
    }
    assert!(wrappers >= 6, "the wrappers were not found; has their form changed?");
    // A framer forwards every callback, so its protocols need it too.
    for name in ["LineProtocol", "StringProtocol"] {
        let all = traits["Protocol"].iter().chain(&traits["ProtocolExtension"]);
        let of_bytes = ["data_received", "extension", "inner", "type_name", "upgraded"];
        let all = all.filter(|callback| !of_bytes.contains(&&***callback));
        let missing = all.filter(|callback| !traits[name].contains(callback));
        broken.extend(missing.map(|callback| format!("{name} has no {callback}")));
    }
    assert_none(&broken, "a wrapper forwards every callback to what it wraps");
}
