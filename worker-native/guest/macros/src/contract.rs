//! What `#[contract]` reads.

use proc_macro2::TokenStream;
use syn::parse::{Parse, ParseStream};
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Pat, Result, Token,
    Type,
};

use crate::expand;

/// `"greeter@1"` or `"greeter@1", part`.
pub(crate) struct Arguments {
    pub(crate) contract: LitStr,
    pub(crate) part: bool,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let contract: LitStr = input.parse()?;
        let mut part = false;
        if input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let word: Ident = input.parse()?;
            if word != "part" {
                return Err(Error::new(word.span(), "expected `part`"));
            }
            part = true;
        }
        if !input.is_empty() {
            return Err(
                input.error("expected #[contract(\"name@1\")] or #[contract(\"name@1\", part)]")
            );
        }
        let value = contract.value();
        if value.is_empty() || value.contains(char::is_whitespace) || value.starts_with('@') {
            return Err(Error::new(
                contract.span(),
                "a contract is a name and a major version: \"greeter@1\"",
            ));
        }
        Ok(Self { contract, part })
    }
}

/// What a function is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Export,
    OnLoad,
    OnUnload,
}

/// A function of the `impl`.
pub(crate) struct Function {
    pub(crate) ident: Ident,
    pub(crate) role: Role,
    /// `#[cfg]`s, which hold for all that is generated for it too.
    pub(crate) cfg: Vec<Attribute>,
    pub(crate) params: Vec<(String, Type)>,
}

pub(crate) fn contract(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments: Arguments = syn::parse2(attribute)?;
    let mut item: ItemImpl = syn::parse2(item)?;
    if let Some((_, of, _)) = &item.trait_ {
        return Err(Error::new_spanned(of, "a contract is an impl of a type's own functions"));
    }
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(&item.generics, "a contract's type has no parameters"));
    }
    let mut functions = Vec::new();
    for member in &mut item.items {
        if let ImplItem::Fn(function) = member {
            let read = read(function)?;
            // With a `#[cfg]` it may be the only one that is compiled.
            let is_again = |other: &Function| {
                other.role == read.role && other.cfg.is_empty() && read.cfg.is_empty()
            };
            if read.role != Role::Export && functions.iter().any(is_again) {
                let message = "an impl has one on_load and one on_unload at most";
                return Err(Error::new(function.sig.ident.span(), message));
            }
            functions.push(read);
        }
    }
    Ok(expand::expand(&arguments, &item, &functions))
}

fn read(function: &mut ImplItemFn) -> Result<Function> {
    let role = take_role(&mut function.attrs)?;
    let signature = &function.sig;
    if let Some(asyncness) = signature.asyncness {
        return Err(Error::new_spanned(asyncness, "native functions are not async"));
    }
    if let Some(param) = signature.generics.type_params().next() {
        return Err(Error::new_spanned(param, "exported functions have no type parameters"));
    }
    let name = name(&signature.ident);
    let snake_case = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if role == Role::Export && !snake_case {
        return Err(Error::new(
            signature.ident.span(),
            "the names of exported functions are snake_case",
        ));
    }
    let mut params = Vec::new();
    for (index, input) in signature.inputs.iter().enumerate() {
        let FnArg::Typed(param) = input else {
            return Err(Error::new_spanned(input, "exported functions take no self"));
        };
        if let Type::ImplTrait(ty) = &*param.ty {
            return Err(Error::new_spanned(ty, "exported functions have no type parameters"));
        }
        let label = match &*param.pat {
            Pat::Ident(pat) => self::name(&pat.ident),
            _ => (index + 1).to_string(),
        };
        params.push((label, (*param.ty).clone()));
    }
    let most = match role {
        Role::Export => usize::MAX,
        Role::OnLoad => 1,
        Role::OnUnload => 0,
    };
    if params.len() > most {
        let message = match role {
            Role::OnLoad => "on_load takes the context, or nothing",
            _ => "on_unload takes nothing",
        };
        return Err(Error::new_spanned(&signature.inputs, message));
    }
    let cfg = function.attrs.iter().filter(|a| a.path().is_ident("cfg")).cloned().collect();
    Ok(Function { ident: signature.ident.clone(), role, cfg, params })
}

/// Takes `#[on_load]` or `#[on_unload]`, by whatever path, off a function.
fn take_role(attributes: &mut Vec<Attribute>) -> Result<Role> {
    let role = |attribute: &Attribute| {
        let last = attribute.path().segments.last()?;
        match last.ident.to_string().as_str() {
            "on_load" => Some(Role::OnLoad),
            "on_unload" => Some(Role::OnUnload),
            _ => None,
        }
    };
    let mut found = Role::Export;
    for attribute in attributes.iter() {
        if let Some(role) = role(attribute) {
            if found != Role::Export {
                return Err(Error::new_spanned(attribute, "a function is one hook at most"));
            }
            found = role;
        }
    }
    attributes.retain(|attribute| role(attribute).is_none());
    Ok(found)
}

/// The name without `r#`.
pub(crate) fn name(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn error(attribute: TokenStream, item: TokenStream) -> String {
        contract(attribute, item).unwrap_err().to_string()
    }

    #[test]
    fn contract_exports_functions_and_hooks() {
        let item = quote! {
            impl A {
                fn f(a: &str, mut b: Vec<u8>, (c, d): (i64, i64)) -> i64 { 1 }
                #[menagerie_guest::on_load]
                fn loaded() {}
            }
        };
        let out = contract(quote!("a@1"), item.clone()).unwrap().to_string();
        assert!(out.contains(r#"("f" , < A > :: __menagerie_f)"#), "{out}");
        assert!(
            out.contains(r#"[& "a" , & "b" , & "3"]"#) || out.contains(r#"["a" , "b" , "3"]"#),
            "{out}"
        );
        let one_hook = ":: menagerie_guest :: __private :: one_hook";
        assert!(out.contains(&format!("on_load : {one_hook} (& [< A > :: __menagerie_loaded])")));
        assert!(out.contains(&format!("on_unload : {one_hook} (& [])")));
        assert!(out.contains(":: menagerie_guest :: bundle ! (A)"));
        assert!(!out.contains("# [menagerie_guest :: on_load]"));
        let part = contract(quote!("a@1", part), item).unwrap().to_string();
        assert!(!part.contains("bundle !"));
    }

    /// Which of them are compiled is known later.
    #[test]
    fn contract_takes_hooks_that_exclude_each_other() {
        let item = quote! {
            impl A {
                #[cfg(a)]
                #[on_load]
                fn one() {}
                #[cfg(not(a))]
                #[on_load]
                fn other() {}
            }
        };
        let out = contract(quote!("a@1"), item).unwrap().to_string();
        for hook in
            ["# [cfg (a)] < A > :: __menagerie_one", "# [cfg (not (a))] < A > :: __menagerie_other"]
        {
            assert!(out.contains(hook), "{out}");
        }
    }

    #[test]
    fn contract_explains_what_it_does_not_take() {
        let cases = [
            (quote!(impl A { fn f(&self) {} }), "no self"),
            (quote!(impl A { async fn f() {} }), "not async"),
            (quote!(impl A { fn f<T>(t: T) {} }), "no type parameters"),
            (quote!(impl A { fn f(t: impl Copy) {} }), "no type parameters"),
            (quote!(impl A { fn greetAll() {} }), "snake_case"),
            (
                quote!(
                    impl<T> A<T> {
                        fn f() {}
                    }
                ),
                "has no parameters",
            ),
            (quote!(impl Clone for A { fn f() {} }), "own functions"),
            (quote!(impl A { #[on_load] #[on_unload] fn f() {} }), "one hook at most"),
            (quote!(impl A { #[on_load] fn f() {} #[on_load] fn g() {} }), "one on_load"),
            (quote!(impl A { #[on_unload] fn f() {} #[on_unload] fn g() {} }), "one on_load"),
            (quote!(impl A { #[on_unload] fn f(a: i64) {} }), "takes nothing"),
            (quote!(impl A { #[on_load] fn f(a: A, b: A) {} }), "or nothing"),
        ];
        for (item, expected) in cases {
            let message = error(quote!("a@1"), item);
            assert!(message.contains(expected), "{message}");
        }
        let item = quote!(impl A {});
        assert!(error(quote!("a@1", whole), item.clone()).contains("part"));
        assert!(error(quote!("a b"), item.clone()).contains("a name and a major version"));
        assert!(contract(quote!(), item).is_err());
    }
}
