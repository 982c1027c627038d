//! What `#[contract]` writes.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ItemImpl;

use crate::contract::{Arguments, Function, Role, name};

pub(crate) fn expand(
    arguments: &Arguments,
    item: &ItemImpl,
    functions: &[Function],
) -> TokenStream {
    let ty = &item.self_ty;
    let contract = &arguments.contract;
    let shims = functions.iter().map(shim);
    let exports = functions.iter().filter(|f| f.role == Role::Export).map(|function| {
        let (cfg, name, shim) = (&function.cfg, name(&function.ident), shim_name(function));
        quote!(#(#cfg)* (#name, <#ty>::#shim))
    });
    let (on_load, on_unload) =
        (hook(item, functions, Role::OnLoad), hook(item, functions, Role::OnUnload));
    let entry = (!arguments.part).then(|| quote!(::menagerie_guest::bundle!(#ty);));
    quote! {
        #item

        #[doc(hidden)]
        #[allow(unsafe_code, unused_imports, unused_variables, unreachable_code, clippy::all, clippy::pedantic)]
        impl #ty {
            #(#shims)*
        }

        impl ::menagerie_guest::Contract for #ty {
            const PART: ::menagerie_guest::__private::Part = ::menagerie_guest::__private::Part {
                contract: #contract,
                functions: &[#(#exports),*],
                on_load: #on_load,
                on_unload: #on_unload,
            };
        }

        #entry
    }
}

fn shim_name(function: &Function) -> syn::Ident {
    format_ident!("__menagerie_{}", name(&function.ident))
}

/// The hook of a kind: of several, which have `#[cfg]`s, the one that is compiled.
fn hook(item: &ItemImpl, functions: &[Function], role: Role) -> TokenStream {
    let ty = &item.self_ty;
    let hooks = functions.iter().filter(|function| function.role == role).map(|function| {
        let (cfg, shim) = (&function.cfg, shim_name(function));
        quote!(#(#cfg)* <#ty>::#shim)
    });
    quote!(::menagerie_guest::__private::one_hook(&[#(#hooks),*]))
}

/// The function as the worker calls it.
fn shim(function: &Function) -> TokenStream {
    let (cfg, ident, shim) = (&function.cfg, &function.ident, shim_name(function));
    let labels = function.params.iter().map(|(label, _)| label);
    let locals: Vec<_> =
        (0..function.params.len()).map(|i| format_ident!("argument_{i}")).collect();
    let types = function.params.iter().map(|(_, ty)| ty);
    let arguments = match function.role {
        Role::OnLoad => quote! {
            #(let #locals: #types = call.context()?;)*
        },
        _ => quote! {
            let mut args = call.args(&[#(#labels),*])?;
            #(let #locals: #types = args.next()?;)*
        },
    };
    quote! {
        #(#cfg)*
        unsafe extern "C" fn #shim(
            call: *mut ::menagerie_guest::abi::Call,
            _userdata: *mut ::core::ffi::c_void,
        ) -> ::core::ffi::c_int {
            use ::menagerie_guest::__private::{
                Returned, SendSerialized as _, Sending, SettleDisplayed as _, SettlePlain as _, run,
            };
            // SAFETY: the worker gives its functions its own calls.
            unsafe {
                run(call, |call| {
                    #arguments
                    let mut returned = Returned(::core::option::Option::Some(Self::#ident(#(#locals),*)));
                    let value = returned.settle()?;
                    Sending(value).send(call)
                })
            }
        }
    }
}
