module octavo.local/pause

go 1.21
