"""After training: adapters read from every layout, converted, merged, fused and written so that others load them."""
