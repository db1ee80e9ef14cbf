"""One audit for each kind of store; `ups.data.audit` is the way in."""
