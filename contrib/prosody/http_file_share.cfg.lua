Component "upload.example.org" "http_file_share"
    http_file_share_base_url = "https://upload.example.org/upload/"
    http_file_share_secret = "the same secret"
    http_file_share_size_limit = 1024*1024*1024
